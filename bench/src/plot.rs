//! One plot as SVG: lines over two logarithmic axes. Each line carries its own name, so that it needs no legend.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 72.0;
const BOTTOM: f64 = 40.0;

pub struct Line {
    pub name: &'static str,
    /// The text at its end.
    pub label: String,
    /// A limit, not a system that does the job.
    pub is_limit: bool,
    pub points: Vec<(f64, f64)>,
}

pub fn lines(title: &str, subtitle: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (x_low, x_high) = range(points().map(|(x, _)| x));
    let (y_low, y_high) = range(points().map(|(_, y)| y));
    let along = |value: f64, low: f64, high: f64| (value / low).ln() / (high / low).ln();
    let at_x = |x: f64| LEFT + along(x, x_low, x_high) * (WIDTH - LEFT - RIGHT);
    let at_y = |y: f64| HEIGHT - BOTTOM - along(y, y_low, y_high) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, (16.0, 28.0), "start", 17, "#1c2733", title);
    text(&mut svg, (16.0, 48.0), "start", 13, "#5d6b7a", subtitle);
    for (x, _) in lines.first().map(|line| line.points.as_slice()).unwrap_or_default() {
        text(&mut svg, (at_x(*x), HEIGHT - 16.0), "middle", 13, "#5d6b7a", &x.to_string());
    }
    let decades = (0..7).map(|power| 10_f64.powi(power));
    for y in decades.filter(|y| (y_low..=y_high).contains(y)) {
        let (at, end) = (at_y(y), WIDTH - RIGHT);
        let _ = writeln!(svg, r##"<path d="M{LEFT} {at:.1}H{end}" stroke="#e3e8ee"/>"##);
        text(&mut svg, (LEFT - 8.0, at + 4.0), "end", 13, "#5d6b7a", &y.to_string());
    }
    let mut labels = Vec::new();
    for line in lines {
        let path: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let dashes = if line.is_limit { r#" stroke-dasharray="6 5""# } else { "" };
        let (path, color) = (path.join(" "), color(line.name));
        let _ = writeln!(
            svg,
            r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"{dashes}/>"#
        );
        labels.extend(line.points.last().map(|(_, y)| (at_y(*y), line)));
    }
    // Labels that would lie on each other are pushed apart.
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = 0.0_f64;
    for (y, line) in labels {
        lowest = y.max(lowest + 17.0);
        text(&mut svg, (WIDTH - RIGHT + 12.0, lowest + 4.5), "start", 14, color(line.name), &line.label);
    }
    svg + "</svg>\n"
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
}

fn color(system: &str) -> &'static str {
    match system {
        "rollcall" => "#1558b0",
        "axum" => "#d1571b",
        "django" => "#2f8557",
        "discosrv" => "#7b4fa3",
        _ => "#7a8794",
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, color: &str, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{text}</text>"#
    );
}
