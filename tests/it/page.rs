//! The page of the board, in a real browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::guardian;
use crate::program::{needs, needs_root, signal};
use crate::stack::{Builder, Stack, expect, text, wait_until};

mod browser;
mod pictures;

use browser::{Browser, link};

fn up() -> Stack {
    Builder::new().set("ROLLCALL_BOARD", "on").up()
}

/// The page of the board on this host, open in a browser. `None`: there is none.
fn opened(stack: &Stack) -> Option<Browser> {
    let browser = Browser::start(stack)?;
    browser.open(&link(stack));
    browser.wait_for("the page is live", "document.querySelector('#live').textContent == 'Live'");
    Some(browser)
}

/// People whom only their rows know: `state` holds until somebody changes it.
fn people(stack: &Stack, emails: &str, state: &str) {
    let window = match state {
        "never" => {
            stack.sql(&format!("insert into users (email) {emails}"));
            return;
        }
        "online" => "heard_ms + 900000000, heard_ms + 990000000",
        "late" => "0, heard_ms + 900000000",
        _ => "0, 0",
    };
    // Of an interval of a second: a server that has just begun to hear gives nobody longer than that brings.
    stack.sql(&format!(
        "insert into users (email, last_seen_ns, ip, port, server, good_until_ms, gone_after_ms, every_s)
         select email, (extract(epoch from now())::bigint - row_number() over ()) * 1000000000, '192.0.2.7', 4711, name,
                {window}, 1
           from ({emails}) as new (email), servers"
    ));
}

/// Changes the state of one of them.
fn turn(stack: &Stack, email: &str, state: &str) {
    let window = match state {
        "online" => "900000000, 990000000",
        "late" => "0, 900000000",
        _ => "0, 0",
    };
    let (good, gone) = window.split_once(", ").unwrap();
    stack.sql(&format!(
        "update users set good_until_ms = {good}, gone_after_ms = {gone} where email = '{email}'"
    ));
}

/// An expression: the state of a person in the table.
fn state_of(email: &str) -> String {
    format!("document.querySelector('tr[data-email=\"{email}\"] .state')?.innerText.trim()")
}

const EMAILS: &str = "[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.email)";

#[track_caller]
fn emails(browser: &Browser) -> Vec<String> {
    serde_json::from_value(browser.value(EMAILS)).unwrap()
}

/// Over nginx, with the certificate that `just enrol --p12` makes for browsers.
#[test]
fn a_browser_with_a_certificate_sees_a_person_come_and_go() {
    let Some(()) = needs("chromium").and(needs("chromedriver")).and(needs("pk12util")) else { return };
    let Some(()) = needs_root("a policy of the browser, which chooses the certificate") else { return };
    let stack = up();
    expect(
        stack
            .tool("stack/run")
            .args(["rollcall-admin", "enrol", "reader@example.com", "--p12"])
            .env("ROLLCALL_P12_PASSWORD", "only for this test"),
        0,
        "reader@example.com.p12",
    );
    expect(&mut stack.administer(&["user", "reads", "reader@example.com", "all"]), 0, "");
    let mut driver = Command::new("unshare");
    // The browser has one place for policies, and here it is a folder of the test.
    let etc = stack.state.join("etc");
    let policies = etc.join("policies/managed");
    fs::create_dir_all(&policies).unwrap();
    let choice = json!({ "pattern": stack.url(), "filter": {} }).to_string();
    let policy = json!({ "AutoSelectCertificateForUrls": [choice] });
    fs::write(policies.join("rollcall.json"), policy.to_string()).unwrap();
    driver.args([
        "--mount",
        "sh",
        "-ec",
        "mount --bind \"$1\" /etc/chromium; shift; exec chromedriver \"$@\"",
        "sh",
    ]);
    driver.arg(&etc);
    let store = stack.state.join(".pki/nssdb");
    fs::create_dir_all(&store).unwrap();
    let database = format!("sql:{}", store.display());
    expect(stack.command("certutil").args(["-N", "--empty-password", "-d", &database]), 0, "");
    let ca = stack.certs.join("ca.crt");
    let trusted = ["-A", "-n", "rollcall", "-t", "C,,", "-d", &database, "-i", ca.to_str().unwrap()];
    expect(stack.command("certutil").args(trusted), 0, "");
    let bundle = stack.certs.join("reader@example.com.p12");
    let taken = ["-i", bundle.to_str().unwrap(), "-d", &database, "-W", "only for this test", "-K", ""];
    expect(stack.command("pk12util").args(taken), 0, "IMPORT SUCCESSFUL");

    let browser = Browser::with(&stack, driver);
    browser.open(&stack.url());
    browser.wait_for("the page is live", "document.querySelector('#live').textContent == 'Live'");
    let someone = stack.member("someone@example.com");
    expect(&mut stack.administer(&["user", "every", "someone@example.com", "1s"]), 0, "");
    let state = state_of("someone@example.com");
    browser.wait_for("the enrolled person is there", &format!("{state} == 'never'"));
    let beating = stack.beating(&someone, "1s");
    browser.wait_for("the person is online", &format!("{state} == 'online'"));
    browser.wait_for("the tab says so", "document.title.startsWith('1 online')");
    browser
        .wait_for("the number says so", "document.querySelector('[data-state=online] b').textContent == '1'");
    // Those who cannot see are told too.
    browser.wait_for(
        "it is said",
        "document.querySelector('#said').textContent == 'someone@example.com is online'",
    );
    // Each heartbeat shows, and not only each change.
    let seen = "document.querySelector('tr[data-email=\"someone@example.com\"] .seen time').dateTime";
    let first = browser.value(seen);
    browser.wait_for("it is seen again", &format!("{seen} != {first}"));
    drop(beating);
    browser.wait_for("the person is late", &format!("{state} == 'late'"));
    browser.wait_for("the tab says so", "document.title.startsWith('1 late')");
    browser.wait_for("the person is offline", &format!("{state} == 'offline'"));
    assert_eq!(emails(&browser)[0], "someone@example.com", "trouble comes first");
    expect(&mut stack.client(&someone), 0, "Success!");
    browser.wait_for("the person is back", &format!("{state} == 'online'"));
    // The right ends, and so does the page.
    expect(&mut stack.administer(&["user", "reads", "reader@example.com", "self"]), 0, "");
    browser.wait_for(
        "the right is missed",
        "document.querySelector('#why').textContent.includes('just user reads reader@example.com all')",
    );
    browser.open(&stack.url());
    assert!(browser.text("main").contains("just user reads reader@example.com all"));
    assert_eq!(browser.complaints(), [""; 0]);
}

/// A frozen green board is the worst of all.
#[test]
fn a_board_that_stands_still_says_so() {
    let stack = up();
    people(&stack, "values ('a@example.com')", "online");
    let Some(browser) = opened(&stack) else { return };
    browser.wait_for("the person is there", &format!("{} == 'online'", state_of("a@example.com")));
    let color = "getComputedStyle(document.querySelector('[data-state=online] .state i')).color";
    let (green, board) = (browser.value(color), stack.pid("board/pid"));
    let is_down = |why: &str| {
        browser.wait_for(
            why,
            &format!(
                "!document.querySelector('#down').hidden
                 && /^Not live since .+ \\({why}.*Everything below is as it was then/.test(document.querySelector('#why').textContent)
                 && document.title == 'not live — rollcall'"
            ),
        );
        assert_ne!(browser.value(color), green);
    };
    let is_live = || {
        browser.wait_for(
            "it is live again",
            "document.querySelector('#down').hidden && document.title == '1 online — rollcall'",
        );
        assert_eq!(browser.value(color), green);
    };
    // It neither answers nor closes a connection.
    signal("STOP", &[board]);
    is_down("[0-9]+s\\)\\. (The board does not answer|Nothing comes from the board)");
    signal("CONT", &[board]);
    browser.click("#again");
    is_live();
    signal("KILL", &[board]);
    is_down("[0-9]+s\\)\\. (The board does not answer|The connection to the board broke off)");
    let up = stack.script("stack/up");
    assert!(up.status.success(), "{}", text(&up));
    is_live();
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn rows_keep_their_place_under_the_pointer() {
    let stack = up();
    people(&stack, "select 'p' || n || '@example.com' from generate_series(1, 5) as n", "online");
    let Some(browser) = opened(&stack) else { return };
    browser.wait_for("they are there", "document.querySelectorAll('tr[data-state=online]').length == 5");
    let before = emails(&browser);
    let over = browser.value("document.querySelector('tbody tr:nth-child(3)').getBoundingClientRect().y");
    browser.point(200, over.as_f64().unwrap() as u32 + 4);
    turn(&stack, &before[4], "offline");
    browser.wait_for("the row says it", &format!("{} == 'offline'", state_of(&before[4])));
    browser.wait_for(
        "the button says it",
        "document.querySelector('#moved').innerText == '1 moved: put in order'",
    );
    assert_eq!(emails(&browser), before);
    people(&stack, "values ('new@example.com')", "late");
    browser.wait_for(
        "the button says it",
        "document.querySelector('#moved').innerText == '2 moved: put in order'",
    );
    assert_eq!(emails(&browser), before);
    browser.click("#moved");
    let now = emails(&browser);
    assert_eq!(now[..2], [before[4].clone(), "new@example.com".to_owned()]);
    assert_eq!(now[2..6], before[..4]);
    assert_eq!(browser.value("document.querySelector('#moved').hidden"), true);
    // The focus counts too.
    browser.point(5, 5);
    browser.value("document.querySelector('thead a').focus()");
    turn(&stack, &before[0], "offline");
    browser.wait_for(
        "the button says it",
        "document.querySelector('#moved').innerText == '1 moved: put in order'",
    );
    assert_eq!(emails(&browser), now);
    // Without either the table is in order at once.
    browser.value("document.activeElement.blur()");
    browser.wait_for("it is in order", &format!("{EMAILS}[0] == '{}'", before[0]));
}

/// Filters, search, order and pages are in the address.
#[test]
fn the_page_is_whole_without_javascript() {
    let stack = up();
    people(&stack, "select 'on' || n || '@example.com' from generate_series(1, 250) as n", "online");
    people(&stack, "values ('gone1@example.com'), ('gone2@example.com')", "offline");
    people(&stack, "values ('late@example.com')", "late");
    people(&stack, "values ('new+tag@example.com')", "never");
    stack.sql("update users set disabled_at = now() where email = 'valid_user@qt-test.com'");
    let who = |state: &str| stack.sql(&format!("select count(*) from users where {state}"));
    assert_eq!(who("good_until_ms = 0"), "3");
    let Some(browser) = Browser::start(&stack) else { return };
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    let port = stack.board_listen.clone();
    let is_at = |path: &str| assert_eq!(browser.address(), format!("http://{port}{path}"));
    let is_ready = || {
        browser.open(&link(&stack));
        browser.text("#counts") == "255\neverybody\n250\nonline\n1\nlate\n2\noffline\n1\nnever\n1\ndisabled"
    };
    wait_until("the board knows everybody", is_ready);
    is_at("/");
    assert!(browser.text("noscript").contains("stands still"), "{}", browser.text("noscript"));
    assert_eq!(browser.text("caption"), "Everybody, trouble first");
    assert_eq!(browser.text("tbody tr:nth-child(3) th"), "late@example.com");
    assert_eq!(browser.text("tbody tr:nth-child(3) .state"), "late");
    assert_eq!(browser.text("tbody tr:nth-child(3) .address"), "192.0.2.7");

    browser.click("#next");
    assert!(browser.address().contains("/?after="), "{}", browser.address());
    assert_eq!(browser.text("tbody tr:nth-child(55) th"), "valid_user@qt-test.com disabled");
    browser.click("#pages a");
    is_at("/");
    browser.click("#counts [data-state=offline] a");
    is_at("/?state=offline");
    assert_eq!(browser.text("caption"), "Who is offline, trouble first");
    assert_eq!(browser.text("tbody").matches("gone").count(), 2);
    browser.click("thead th:nth-child(2) a");
    is_at("/?state=offline&sort=email");
    browser.write("#q", "1@EX");
    browser.click("form button");
    is_at("/?state=offline&sort=email&q=1%40EX");
    assert_eq!(browser.text("caption"), "Who is offline, with 1@EX in the email, by email");
    assert!(browser.text("tbody").starts_with("offline gone1@example.com"), "{}", browser.text("tbody"));
    browser.click("#counts [data-state=all] a");
    is_at("/?q=1%40EX&sort=email");
    browser.open(&format!("http://{port}/?q=w%2Bt"));
    assert_eq!(browser.text("tbody th"), "new+tag@example.com");
    browser.open(&format!("http://{port}/?state=late,never&sort=seen"));
    assert_eq!(browser.text("caption"), "Who is late or never, last seen first");
    browser.open(&format!("http://{port}/?q=nobody"));
    assert!(browser.text("#nobody").starts_with("Nobody is like that."));
    // A mistake in the address is said on a page, too.
    for (path, said) in [
        ("/?state=asleep", "the states are offline, late, unknown, online, never, and disabled"),
        ("/?sort=age", "it is trouble, email or seen"),
        ("/?after=%00", "it is the text of next in an answer"),
        ("/?q=%3Cscript%3E%0A", "no email has control characters"),
        ("/?x=1", "no parameter"),
        ("/?code=0123", "just board prints another"),
    ] {
        browser.open(&format!("http://{port}{path}"));
        let shown = browser.text("main");
        assert!(shown.contains(said) && shown.contains("Show everybody"), "{path}: {shown}");
    }
}

#[test]
fn nobody_writes_into_the_page() {
    let stack = up();
    let hostile = [
        "<img/src=x/onerror=document.title='owned'>@example.com",
        "\"onmouseover=alert(1)//@example.com",
        "</template><script>document.title='owned'</script>@example.com",
        "\u{202e}moc.elpmaxe@\u{2066}evil",
        "&lt;b&gt;@example.com",
        "{{rows}}@example.com",
    ];
    for email in hostile {
        people(&stack, &format!("values ('{}')", email.replace('\'', "''")), "late");
    }
    let Some(browser) = opened(&stack) else { return };
    let is_there = |email: &str| {
        let is_row = format!("(row) => row.querySelector('th bdi').textContent === {}", Value::from(email));
        browser.wait_for("it is text", &format!("[...document.querySelectorAll('tbody tr')].some({is_row})"));
    };
    hostile.iter().for_each(|email| is_there(email));
    // One that comes while somebody looks.
    people(&stack, "values ('<svg/onload=document.title=''owned''>@example.com')", "late");
    is_there("<svg/onload=document.title='owned'>@example.com");
    browser.open(&browser.address());
    is_there("<svg/onload=document.title='owned'>@example.com");
    assert_eq!(
        browser.value("document.querySelectorAll('tbody :is(img, script, svg, b), body > script').length"),
        0
    );
    assert_ne!(browser.value("document.title"), "owned");
    let answer = stack
        .curl(Some(&stack.pair("client")), &["-X", "GET", "-H", "Accept: text/html", "/?q=%3Cscript%3E"]);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("just user reads valid_user@qt-test.com all"), "{answer:?}");
    let head = answer.head.to_lowercase();
    for header in [
        "content-type: text/html;charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

fn axe() -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/node_modules/axe-core/axe.min.js");
    let axe = fs::read_to_string(file);
    if axe.is_err() {
        guardian::skip("axe-core is missing; stack/setup --tests installs it");
    }
    axe.ok()
}

/// What axe-core finds, in words.
#[track_caller]
fn finds_nothing(browser: &Browser, axe: &str, at: &str) {
    browser.devtools("Runtime.evaluate", json!({ "expression": axe }));
    let found = browser.promised(
        "axe.run(document, { resultTypes: ['violations'] }).then((found) =>
           found.violations.map((one) => one.id + ': ' + one.nodes.map((node) => node.html + ' ' + node.failureSummary).join('; ')))",
    );
    assert_eq!(found, json!([]), "{at}: {found:#}");
}

#[test]
fn axe_finds_nothing() {
    let Some(axe) = axe() else { return };
    let stack = up();
    for (state, emails) in [
        (
            "online",
            "select 'a-rather-long-name-of-a-device-' || n || '@workshop.example.com' from generate_series(1, 210) as n",
        ),
        ("late", "values ('carol@example.com')"),
        ("offline", "values ('bob@example.com')"),
        ("never", "values ('dave@example.com')"),
    ] {
        people(&stack, emails, state);
    }
    stack.sql("update users set disabled_at = now() where email = 'dave@example.com'");
    let Some(browser) = opened(&stack) else { return };
    let fits = |at: &str| {
        let width = browser.value("document.documentElement.scrollWidth - innerWidth");
        assert!(width.as_f64().unwrap() <= 0.0, "{at}: {width} pixels are out of sight");
    };
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        // The third is the first at 400 %.
        for (width, height) in [(1280, 800), (900, 600), (320, 200), (320, 640)] {
            browser.size(width, height);
            let at = format!("{scheme}, {width} x {height}");
            finds_nothing(&browser, &axe, &at);
            fits(&at);
        }
    }
    // All the lines that trouble adds.
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    browser.wait_for(
        "the server is deaf",
        "document.querySelector('#servers').innerText.includes('cannot hear since')",
    );
    browser.wait_for(
        "its people are unknown",
        "document.title.startsWith('212 unknown') && document.querySelectorAll('tr[data-state=unknown]').length > 0",
    );
    finds_nothing(&browser, &axe, "a deaf server");
    signal("CONT", &[server]);
    browser.wait_for("it hears again", "document.querySelector('#servers').innerText == ''");
    signal("KILL", &[stack.pid("board/pid")]);
    browser.wait_for("it is down", "!document.querySelector('#down').hidden");
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        finds_nothing(&browser, &axe, "a board that is down");
        fits("a board that is down");
    }
}
