//! A real browser: Debian's chromium without a screen, driven by chromedriver (WebDriver, over HTTP).

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::program::{PATIENCE, Running, needs, wait_until};
use crate::stack::{Stack, free_port, text};

/// None of them asks anybody outside of this machine.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--no-proxy-server",
];

pub struct Browser {
    port: u16,
    session: String,
    _driver: Running,
}

impl Browser {
    /// `None` where there is none: the test is skipped.
    pub fn start(stack: &Stack) -> Option<Self> {
        needs("chromium")?;
        needs("chromedriver")?;
        Some(Self::with(stack, Command::new("chromedriver")))
    }

    /// With a `chromedriver` of the caller's. The profile, and the store of certificates, are in the folder of the test.
    pub fn with(stack: &Stack, mut driver: Command) -> Self {
        let port = free_port();
        driver.arg(format!("--port={port}")).env("HOME", &stack.state);
        let driver = Running::start(stack, driver);
        wait_until("chromedriver listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut browser = Self { port, session: String::new(), _driver: driver };
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--user-data-dir={}", stack.state.join("chromium").display()));
        let chrome = json!({ "args": flags, "prefs": { "profile.exit_type": "Normal" } });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "pageLoadStrategy": "normal",
            "goog:chromeOptions": chrome,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser.size(1280, 800);
        browser
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let (head, body) = self.exchange(method, path, &body).unwrap();
        let value = serde_json::from_str::<Value>(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {value}");
        value["value"].clone()
    }

    /// It leaves the connection open: the answer ends with its body.
    fn exchange(&self, method: &str, path: &str, body: &str) -> io::Result<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let len = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}")?;
        let (mut reader, mut head, mut len) = (BufReader::new(stream), String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                break;
            }
            if let Some(value) = head[start..].to_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        Ok((head, String::from_utf8_lossy(&body).into_owned()))
    }

    #[track_caller]
    fn command(&self, name: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}/{name}", self.session), &body)
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.command("url", json!({ "url": url }));
    }

    pub fn address(&self) -> String {
        self.ask("GET", &format!("{}/url", self.session), &Value::Null).as_str().unwrap().to_owned()
    }

    /// The value of an expression.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.command("execute/sync", json!({ "script": format!("return {expression}"), "args": [] }))
    }

    /// The same, when it comes to be true.
    #[track_caller]
    pub fn wait_for(&self, event: &str, condition: &str) {
        let mut last = Value::Null;
        let is_so = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(event, || {
                last = self.value(condition);
                last == true
            });
        }));
        if is_so.is_err() {
            let shown = self.value("document.documentElement.innerText");
            panic!(
                "in vain until {event}: {condition} is {last}; the page says:\n{}",
                shown.as_str().unwrap_or("")
            );
        }
    }

    /// The value of an expression that is a promise.
    #[track_caller]
    pub fn promised(&self, expression: &str) -> Value {
        let script =
            format!("const done = arguments[0]; ({expression}).then(done, (error) => done(String(error)))");
        self.command("execute/async", json!({ "script": script, "args": [] }))
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.command("element", json!({ "using": "css selector", "value": selector }));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// As a person would: it has to be in sight.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.command(&format!("element/{element}/click"), json!({}));
    }

    #[track_caller]
    pub fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command(&format!("element/{element}/value"), json!({ "text": text }));
    }

    /// Also without JavaScript in the page.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let element = self.element(selector);
        let path = format!("{}/element/{element}/text", self.session);
        self.ask("GET", &path, &Value::Null).as_str().unwrap().to_owned()
    }

    /// Puts the pointer there.
    #[track_caller]
    pub fn point(&self, x: u32, y: u32) {
        let moved = json!({ "type": "pointerMove", "duration": 0, "x": x, "y": y, "origin": "viewport" });
        self.command(
            "actions",
            json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": [moved] }] }),
        );
    }

    /// The size of the window in pixels of CSS.
    pub fn size(&self, width: u32, height: u32) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// `dark` or `light`.
    pub fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// A picture of the window, as WebP.
    pub fn picture(&self, file: &Path) -> Vec<u8> {
        let picture = self.devtools("Page.captureScreenshot", json!({ "format": "webp", "quality": 88 }));
        let picture = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        fs::write(file, &picture).unwrap();
        picture
    }

    /// What the browser had to complain about, but for those of the network itself.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" }));
        log.as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .filter(|message| !message.contains("net::ERR_") && !message.contains("status of "))
            .collect()
    }
}

impl Drop for Browser {
    /// Its processes end with the session.
    fn drop(&mut self) {
        let _ = self.exchange("DELETE", &self.session, "");
    }
}

/// The address of the page on this host, with its code.
#[track_caller]
pub fn link(stack: &Stack) -> String {
    let output = stack.tool("stack/run").args(["rollcall-board", "link"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
