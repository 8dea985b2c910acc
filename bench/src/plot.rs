//! Plots as SVG: lines over logarithmic axes, and stacked bars. Each line and bar carries its own name, so
//! that nothing has to be looked up in a legend.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 62.0;
const INK: &str = "#1c2733";
const FAINT: &str = "#5d6b7a";
const GRID: &str = "#e3e8ee";

pub fn color(system: &str) -> &'static str {
    match system {
        "rollcall" => "#1558b0",
        "axum" => "#d1571b",
        "django" => "#2f8557",
        _ => "#7a8794",
    }
}

pub struct Line {
    pub name: &'static str,
    /// What stands at its end.
    pub label: String,
    /// A limit, not a system that does the job.
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}

pub struct Axis {
    pub title: &'static str,
    /// Where a grid line is drawn, and what is written there.
    pub ticks: Vec<(f64, String)>,
}

/// Lines over two logarithmic axes.
pub fn lines(title: &str, subtitle: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (x_low, x_high) = range(&mut points().map(|point| point.0).chain(x.ticks.iter().map(|tick| tick.0)));
    let (y_low, y_high) = range(&mut points().map(|point| point.1));
    let (y_low, y_high) = (y_low * 0.8, y_high * 1.25);
    let along = |value: f64, low: f64, high: f64| (value / low).ln() / (high / low).ln();
    let at_x = |value: f64| LEFT + along(value, x_low, x_high) * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| HEIGHT - BOTTOM - along(value, y_low, y_high) * (HEIGHT - TOP - BOTTOM);

    let mut svg = head(HEIGHT, title, subtitle);
    for (value, name) in x.ticks.iter() {
        let at = at_x(*value);
        line(&mut svg, (at, TOP), (at, HEIGHT - BOTTOM), GRID);
        text(&mut svg, (at, HEIGHT - BOTTOM + 20.0), "middle", 13.0, FAINT, name);
    }
    for (value, name) in y.ticks.iter().filter(|(value, _)| (y_low..=y_high).contains(value)) {
        let at = at_y(*value);
        line(&mut svg, (LEFT, at), (WIDTH - RIGHT, at), GRID);
        text(&mut svg, (LEFT - 8.0, at + 4.0), "end", 13.0, FAINT, name);
    }
    text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 16.0), "middle", 13.0, INK, x.title);
    text(&mut svg, (16.0, TOP - 14.0), "start", 13.0, INK, y.title);
    let mut labels = Vec::new();
    for one in lines {
        let path: Vec<String> =
            one.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let (width, dashes) = if one.dashed { (1.8, r#" stroke-dasharray="6 5""#) } else { (3.0, "") };
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="{width}" stroke-linejoin="round"{dashes}/>"#,
            path.join(" "),
            color(one.name)
        );
        if one.points.len() < 12 {
            for (x, y) in &one.points {
                let _ = writeln!(
                    svg,
                    r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{}"/>"#,
                    at_x(*x),
                    at_y(*y),
                    color(one.name)
                );
            }
        }
        if let Some((x, y)) = one.points.last() {
            labels.push((at_y(*y), at_x(*x), one));
        }
    }
    // Labels that would lie on each other are pushed apart.
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = 0.0_f64;
    for (y, x, one) in labels {
        let y = y.max(lowest + 17.0);
        lowest = y;
        text(&mut svg, (x + 12.0, y + 4.5), "start", 14.0, color(one.name), &one.label);
    }
    svg + "</svg>\n"
}

pub struct Bar {
    pub name: &'static str,
    /// What stands at its end.
    pub label: String,
    /// In the order of `bars`' parts.
    pub parts: Vec<f64>,
}

/// Horizontal stacked bars. The parts are named with their color above the first bar.
pub fn bars(title: &str, subtitle: &str, parts: &[(&str, &str)], bars: &[Bar]) -> String {
    const ROW: f64 = 62.0;
    const NAME: f64 = 110.0;
    let height = TOP + 44.0 + ROW * bars.len() as f64;
    let longest = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(0.0, f64::max);
    let scale = (WIDTH - NAME - 270.0) / longest;
    let mut svg = head(height, title, subtitle);
    let mut at = NAME;
    for (name, color) in parts {
        let _ = writeln!(svg, r#"<rect x="{at}" y="{TOP}" width="14" height="14" fill="{color}"/>"#);
        text(&mut svg, (at + 20.0, TOP + 12.0), "start", 13.0, INK, name);
        at += 44.0 + 7.5 * name.len() as f64;
    }
    for (row, bar) in bars.iter().enumerate() {
        let y = TOP + 34.0 + ROW * row as f64;
        text(&mut svg, (NAME - 10.0, y + 23.0), "end", 15.0, color(bar.name), bar.name);
        let mut x = NAME;
        for (value, (_, color)) in bar.parts.iter().zip(parts) {
            let width = value * scale;
            let _ =
                writeln!(svg, r#"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="36" fill="{color}"/>"#);
            if width > 30.0 {
                text(
                    &mut svg,
                    (x + width / 2.0, y + 23.0),
                    "middle",
                    13.0,
                    "#ffffff",
                    &format!("{value:.0}"),
                );
            }
            x += width;
        }
        text(&mut svg, (x + 10.0, y + 23.0), "start", 14.0, INK, &bar.label);
    }
    svg + "</svg>\n"
}

/// Powers of ten and their triples, which divide each decade in two on a logarithmic axis.
pub fn decades(from: i32, to: i32, name: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let values = (from..=to).flat_map(|power| [1.0, 3.0].map(|digit| digit * 10_f64.powi(power)));
    values.map(|value| (value, name(value))).collect()
}

fn head(height: f64, title: &str, subtitle: &str) -> String {
    let mut svg = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" "#,
            r#"font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">"#,
            "\n<title>{t}</title>\n",
            r##"<rect width="{w}" height="{h}" fill="#ffffff"/>"##,
            "\n"
        ),
        w = WIDTH,
        h = height,
        t = escape(title),
    );
    let _ = writeln!(
        svg,
        r#"<text x="16" y="28" font-size="17" font-weight="600" fill="{INK}">{}</text>"#,
        escape(title)
    );
    text(&mut svg, (16.0, 48.0), "start", 13.0, FAINT, subtitle);
    svg
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{color}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, size: f64, color: &str, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{}</text>"#,
        at.0,
        at.1,
        escape(text)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
