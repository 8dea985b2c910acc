//! The page for people. The server writes all of it, so that it is readable and usable without JavaScript; board.js
//! keeps it true while somebody looks. Its rows are made like those of [`row`].

use std::fmt::{self, Display, Write};
use std::time::SystemTime;

use ring::digest::{SHA256, digest};
use serde_json::Value;
use tide::http::headers::HeaderValues;
use tide::{Response, StatusCode};

use super::people::{Look, Sort};
use super::time;
use crate::cli::{here, now_ns};
use crate::http::problem::Problem;

const HTML: &str = include_str!("page/page.html");

/// The files that the page loads: path, media type and text.
pub const FILES: [(&str, &str, &str); 3] = [
    ("/api/board.css", "text/css; charset=utf-8", include_str!("page/board.css")),
    ("/api/board.js", "text/javascript; charset=utf-8", include_str!("page/board.js")),
    ("/api/board.svg", "image/svg+xml", include_str!("page/board.svg")),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A certificate that ends within so many seconds is marked.
const SOON: i64 = 14 * 86_400;

/// What the address asks for, as it was written.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Empty: everybody.
    pub state: &'a str,
    pub q: &'a str,
    pub sort: Sort,
    /// Not the first page.
    pub is_later: bool,
}

/// `GET /`: a part of the list, and the cursor of the next.
pub fn page(view: View, look: &Look, people: &[Value], next: Option<&str>) -> Response {
    let now_ns = now_ns();
    let now = (now_ns / 1_000_000_000).cast_signed();
    let counts = look.counts.json();
    let words: Vec<&str> = view.state.split(',').filter(|word| !word.is_empty()).collect();
    let mut rows = String::new();
    for person in people {
        rows += &row(person, now);
    }
    let hidden = |name, value: &str| match value {
        "" => String::new(),
        _ => format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">\n", Text(value)),
    };
    let nobody = match (words.is_empty() && view.q.is_empty(), view.is_later) {
        (true, false) => "Nobody is enrolled yet: <code>just enrol alice@example.com</code> adds somebody.",
        _ => "Nobody is like that. <a href=\"/\">Show everybody</a>",
    };
    let nobody = here(nobody);
    let as_of = time(look.as_of_ns);
    let body = fill(&[
        ("title", &Text(&title(&counts))),
        ("now", &time(now_ns)),
        ("as_of", &as_of.get(11..19).unwrap_or_default()),
        ("kept", &format!("{}{}", hidden("state", view.state), hidden("sort", sort_word(view.sort)))),
        ("q", &Text(view.q)),
        ("counts", &filters(view, &words, &counts)),
        ("servers", &deaf(&look.servers)),
        ("caption", &caption(view, &words)),
        ("heads", &heads(view)),
        ("rows", &rows),
        ("has_rows", &if people.is_empty() { "" } else { " hidden" }),
        ("nobody", &nobody),
        ("pages", &pages(view, next)),
        ("row", &row(&Value::Null, now)),
    ]);
    html(StatusCode::Ok, body)
}

/// The same for somebody with a browser, whom JSON would not help.
pub fn problem(problem: &Problem) -> Response {
    let status = problem.status;
    let title = status.canonical_reason();
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} — rollcall</title>\n\
         <link rel=\"icon\" href=\"/api/board.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/api/board.css\">\n</head>\n<body class=\"problem\">\n<main>\n\
         <h1>{title}</h1>\n<p><bdi>{}</bdi></p>\n<p><a href=\"/\">Show everybody</a></p>\n</main>\n</body>\n</html>\n",
        Text(&problem.detail)
    );
    let mut response = html(status, body);
    if status == StatusCode::ServiceUnavailable {
        response.insert_header("Refresh", "2");
    }
    response
}

/// Does the sender read HTML? Programs that say nothing get the problem as JSON.
pub fn is_for_a_browser(accept: Option<&HeaderValues>) -> bool {
    accept.is_some_and(|values| values.iter().any(|value| value.as_str().contains("text/html")))
}

/// A file of the page; `known` is the tag of the copy that the browser has.
pub fn file(kind: &str, text: &'static str, known: Option<&str>) -> Response {
    let tag = format!("\"{}\"", hex::encode(&digest(&SHA256, text.as_bytes()).as_ref()[..8]));
    let response = match known == Some(tag.as_str()) {
        true => Response::builder(StatusCode::NotModified),
        false => Response::builder(StatusCode::Ok).content_type(kind).body(text),
    };
    response
        .header("ETag", tag)
        .header("Cache-Control", "private, no-cache")
        .header("X-Content-Type-Options", "nosniff")
        .build()
}

fn html(status: StatusCode, body: String) -> Response {
    Response::builder(status)
        .content_type("text/html; charset=utf-8")
        .header("Cache-Control", "no-store")
        .header("Content-Security-Policy", POLICY)
        .header("Cross-Origin-Opener-Policy", "same-origin")
        .header("Cross-Origin-Resource-Policy", "same-origin")
        .header("Referrer-Policy", "no-referrer")
        .header("X-Content-Type-Options", "nosniff")
        .body(body)
        .build()
}

/// Puts the values into their places. No value is looked at again, whatever it holds.
fn fill(values: &[(&str, &dyn Display)]) -> String {
    let mut parts = HTML.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        for (_, value) in values.iter().filter(|(known, _)| *known == name) {
            let _ = write!(page, "{value}");
        }
        page += rest;
    }
    page
}

/// The trouble, for the tab.
fn title(counts: &Value) -> String {
    let trouble: Vec<String> = ["offline", "late", "unknown"]
        .iter()
        .filter(|word| counts[**word] != 0)
        .map(|word| format!("{} {word}", number(&counts[*word])))
        .collect();
    match trouble.is_empty() {
        true => format!("{} online — rollcall", number(&counts["online"])),
        false => format!("{} — rollcall", trouble.join(", ")),
    }
}

/// The line that stays: each number is a filter.
fn filters(view: View, words: &[&str], counts: &Value) -> String {
    let first = View { is_later: false, ..view };
    let is_current = |current| if current { " aria-current=\"true\"" } else { "" };
    let mut list = String::new();
    for word in ["online", "late", "offline", "unknown", "never", "disabled"] {
        let is_rare = matches!(word, "unknown" | "disabled");
        let is_chosen = words.contains(&word);
        let hidden = if is_rare && !is_chosen && counts[word] == 0 { " hidden" } else { "" };
        let _ = writeln!(
            list,
            "<li data-state=\"{word}\"{hidden}><a href=\"{}\"{}><b>{}</b> <i></i>{word}</a></li>",
            Text(&address(View { state: word, ..first }, None)),
            is_current(is_chosen),
            number(&counts[word])
        );
    }
    let everybody = address(View { state: "", ..first }, None);
    let current = is_current(words.is_empty());
    let all = |counts: &Value| -> u64 {
        counts.as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
    };
    format!(
        "<li data-state=\"all\"><a href=\"{}\"{current}><b>{}</b> everybody</a></li>\n{list}",
        Text(&everybody),
        number(&all(counts).into())
    )
}

/// A line for each server that cannot hear.
fn deaf(servers: &Value) -> String {
    let mut lines = String::new();
    for server in servers.as_array().into_iter().flatten().filter(|server| server["hears"] == false) {
        let since = server["since"].as_str().map_or(String::new(), |since| {
            let clock = since.get(11..19).unwrap_or_default();
            format!(" since <time datetime=\"{}\" data-says=\"clock\">{clock} UTC</time>", Text(since))
        });
        let name = Text(server["name"].as_str().unwrap_or_default());
        let _ = writeln!(
            lines,
            "<p>The server <bdi>{name}</bdi> cannot hear{since}: its people are unknown.</p>"
        );
    }
    lines
}

fn caption(view: View, words: &[&str]) -> String {
    let of = if words.is_empty() { "Everybody".to_owned() } else { format!("Who is {}", words.join(" or ")) };
    let with = match view.q {
        "" => String::new(),
        q => format!(", with <q><bdi>{}</bdi></q> in the email", Text(q)),
    };
    let order = match view.sort {
        Sort::Trouble => "trouble first",
        Sort::Email => "by email",
        Sort::Seen => "last seen first",
    };
    format!("{}{with}, {order}", Text(&of))
}

fn heads(view: View) -> String {
    let sorted = |sort, name, direction| {
        let current = match view.sort == sort {
            true => format!(" aria-sort=\"{direction}\""),
            false => String::new(),
        };
        let to = address(View { sort, is_later: false, ..view }, None);
        format!("<th scope=\"col\" role=\"columnheader\"{current}><a href=\"{}\">{name}</a></th>", Text(&to))
    };
    let plain = |name| format!("<th scope=\"col\" role=\"columnheader\">{name}</th>");
    [
        sorted(Sort::Trouble, "State", "other"),
        sorted(Sort::Email, "Person", "ascending"),
        plain("Since"),
        sorted(Sort::Seen, "Last seen", "descending"),
        plain("Due"),
        plain("Address"),
        plain("Certificate ends"),
    ]
    .concat()
}

fn pages(view: View, next: Option<&str>) -> String {
    let first = match view.is_later {
        true => format!("<a href=\"{}\">First page</a>", Text(&address(view, None))),
        false => String::new(),
    };
    let (to, hidden) = match next {
        Some(_) => (address(view, next), ""),
        None => (String::new(), " hidden"),
    };
    format!("{first}<a id=\"next\" rel=\"next\" href=\"{}\"{hidden}>Next page</a>", Text(&to))
}

/// A row; of nobody: the model for those of board.js.
fn row(person: &Value, now: i64) -> String {
    let text = |name: &str| person[name].as_str();
    let state = text("state").unwrap_or_default();
    let email = Text(text("email").unwrap_or_default());
    let disabled = if person["disabled"] == true { "" } else { " hidden" };
    let ends = person["certificate"]["not_after"].as_str();
    let is_soon = ends.and_then(seconds).is_some_and(|ends| ends - now < SOON);
    format!(
        "<tr role=\"row\" data-email=\"{email}\" data-state=\"{state}\">\
         <td role=\"cell\" class=\"state\"><i></i><span>{state}</span></td>\
         <th role=\"rowheader\" scope=\"row\"><bdi>{email}</bdi><span class=\"disabled\"{disabled}> disabled</span></th>\
         <td role=\"cell\" class=\"since\">{}</td>\
         <td role=\"cell\" class=\"seen\">{}</td>\
         <td role=\"cell\" class=\"due\">{}</td>\
         <td role=\"cell\" class=\"address\"><bdi>{}</bdi></td>\
         <td role=\"cell\" class=\"{}\">{}</td></tr>\n",
        moment(text("since"), Says::Since, now),
        moment(text("last_seen"), Says::Seen, now),
        moment(text("due"), Says::Due, now),
        Text(text("ip").unwrap_or("–")),
        if is_soon { "ends soon" } else { "ends" },
        moment(ends, Says::Ends, now),
    )
}

/// How a time is said in relation to now.
#[derive(Clone, Copy)]
enum Says {
    Since,
    Seen,
    Due,
    Ends,
}

fn moment(at: Option<&str>, says: Says, now: i64) -> String {
    let word = match says {
        Says::Since => "since",
        Says::Seen => "seen",
        Says::Due => "due",
        Says::Ends => "ends",
    };
    let Some((text, at)) = at.and_then(|text| Some((text, seconds(text)?))) else {
        return format!("<time data-says=\"{word}\">–</time>");
    };
    let passed = age(at.abs_diff(now));
    let said = match (says, at > now) {
        (Says::Since, _) => passed,
        (Says::Due | Says::Ends, true) => format!("in {passed}"),
        (Says::Seen | Says::Due | Says::Ends, _) => format!("{passed} ago"),
    };
    format!("<time data-says=\"{word}\" datetime=\"{}\">{said}</time>", Text(text))
}

/// Two units at the most, as board.js says it too.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..600 => format!("{minutes}m {}s", seconds % 60),
        600..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        86_400..864_000 => format!("{days}d {}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// Seconds since the Unix epoch.
fn seconds(text: &str) -> Option<i64> {
    let at = humantime::parse_rfc3339(text).ok()?;
    Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs().cast_signed())
}

/// With commas between the thousands.
fn number(count: &Value) -> String {
    let digits = count.as_u64().unwrap_or_default().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn sort_word(sort: Sort) -> &'static str {
    match sort {
        Sort::Trouble => "",
        Sort::Email => "email",
        Sort::Seen => "seen",
    }
}

/// The address of a view.
fn address(view: View, after: Option<&str>) -> String {
    let pairs = [
        ("state", view.state),
        ("q", view.q),
        ("sort", sort_word(view.sort)),
        ("after", after.unwrap_or_default()),
    ];
    let mut address = "/".to_owned();
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(address, "{}{name}=", if address == "/" { '?' } else { '&' });
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => {
                    address.push(byte.into());
                }
                _ => {
                    let _ = write!(address, "%{byte:02X}");
                }
            }
        }
    }
    address
}

/// Text of others in HTML, also between quotes.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_is_markup() {
        let email = "<img src=x onerror=alert(1)>\"'&\u{202e}{{rows}}@example.com";
        let person = serde_json::json!({ "email": email, "state": "online", "disabled": false });
        let row = row(&person, 0);
        assert!(!row.contains("<img") && !row.contains("\"'&\u{202e}"), "{row}");
        assert!(row.contains("<bdi>&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\u{202e}"), "{row}");
        let view = View { state: "\"><script>", q: email, sort: Sort::Seen, is_later: true };
        let link = address(view, Some("a b&c"));
        assert!(link.bytes().all(|byte| !b"<>\"'& {}".contains(&byte) || byte == b'&'), "{link}");
        assert!(link.starts_with("/?state=%22%3E%3Cscript%3E&q=%3Cimg%20src"), "{link}");
        assert!(link.ends_with("&sort=seen&after=a%20b%26c"), "{link}");
        assert_eq!(fill(&[("rows", &"{{caption}}"), ("caption", &"once")]).matches("{{caption}}").count(), 1);
    }

    #[test]
    fn ages_and_numbers_are_short() {
        let said = [0, 59, 60, 599, 600, 3599, 3600, 86_399, 86_400, 863_999, 864_000].map(age);
        let expected =
            ["0s", "59s", "1m 0s", "9m 59s", "10m", "59m", "1h 0m", "23h 59m", "1d 0h", "9d 23h", "10d"];
        assert_eq!(said, expected);
        let numbers = [0_u64, 999, 1000, 100_000, 1_234_567].map(|count| number(&count.into()));
        assert_eq!(numbers, ["0", "999", "1,000", "100,000", "1,234,567"]);
    }
}
