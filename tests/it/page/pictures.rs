//! The pictures in docs/board: `ROLLCALL_PICTURES=1` writes them anew. Without it the same is looked at, and thrown away.

use super::*;

/// Names, so that the pictures show people.
const NAMES: &str = "array['ada','ben','chloe','dinah','emil','farah','goran','hana','ines','jonas','kirsten','liam',
    'mei','nils','olga','pavel','quentin','rosa','samir','tess','uma','viktor','wanda','xenia','yusuf','zoe']";

/// So many, of whom `sick` are late or offline, in about the parts of a fleet.
fn fleet(stack: &Stack, many: u32) {
    stack.sql(&format!(
        "truncate users cascade;
         insert into users (email, last_seen_ns, ip, port, server, good_until_ms, gone_after_ms, every_s)
         select email, last_seen_ns, ip, port, name, good, gone, every_s from (
             select n, ({NAMES})[(1 + n % 26)::int] || (case when n < 26 then '' else '.' || n / 26 end)
                        || (array['@example.com','@lab.example.com','@shop.example.com'])[(1 + n % 3)::int] as email,
                    extract(epoch from now())::bigint * 1000000000 - (case when sick = 2 then 4000 + n * 977 % 90000
                        when sick = 1 then 35 + n % 41 else n % 29 end) * 1000000000::bigint
                        - n * 999983 % 1000000000 as last_seen_ns,
                    ('192.0.2.0'::inet + n % 250 + 1) as ip, 40000 + n % 20000 as port, name,
                    case when sick > 0 then 0 else heard_ms + 900000000 end as good,
                    case when sick = 2 then 0 else heard_ms + 900000000 end as gone,
                    case when sick > 0 then 1 else 30 end as every_s, sick
               from servers, generate_series(0::bigint, {many} - 1) as n,
                    lateral (select case when {many} < 10 then (array[0, 2, 1])[(1 + n % 3)::int]
                                         when n % 97 = 5 then 2 when n % 61 = 3 then 1 else 0 end as sick) as fate
         ) as people;
         insert into certificates (serial_number, email, fingerprint, not_after, last_used_ns)
         select upper(md5(email)), email, md5(email) || substr(md5(email), 1, 8),
                extract(epoch from now())::bigint + (3 + abs(hashtext(email)) % 360) * 86400, last_seen_ns from users;
         insert into users (email) select 'new.' || n || '@example.com' from generate_series(1, {many} / 40) as n"
    ));
}

#[test]
fn pictures_of_three_and_a_thousand_and_a_hundred_thousand() {
    let stack = up();
    let Some(browser) = Browser::start(&stack) else { return };
    let folder = match std::env::var_os("ROLLCALL_PICTURES") {
        Some(_) => Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/board"),
        None => PathBuf::from(&stack.state),
    };
    fs::create_dir_all(&folder).unwrap();
    for many in [3, 1000, 100_000] {
        fleet(&stack, many);
        // A start reads everybody at once.
        signal("KILL", &[stack.pid("board/pid")]);
        let up = stack.script("stack/up");
        assert!(up.status.success(), "{}", text(&up));
        browser.open(&link(&stack));
        browser.wait_for("the page is live", "document.querySelector('#live').textContent == 'Live'");
        // `stack/up` enrols one of its own.
        stack.sql(
            "delete from certificates where email = 'valid_user@qt-test.com';
             delete from users where email = 'valid_user@qt-test.com'",
        );
        let rows = many.min(200);
        browser
            .wait_for("a page is full", &format!("document.querySelectorAll('tbody tr').length == {rows}"));
        browser
            .wait_for("the worst is known", "document.querySelector('tbody tr').dataset.state == 'offline'");
        browser.wait_for("the list was read again", "performance.getEntriesByType('resource').length > 4");
        for (name, width, height, scheme) in
            [("desktop", 1280, 720, "light"), ("dark", 1280, 720, "dark"), ("phone", 360, 640, "light")]
        {
            browser.size(width, height);
            browser.scheme(scheme);
            let picture = browser.picture(&folder.join(format!("{many}-{name}.webp")));
            assert!(picture.starts_with(b"RIFF") && picture.len() < 150_000, "{} bytes", picture.len());
        }
        browser.size(1280, 720);
    }
    browser.scheme("light");
    signal("KILL", &[stack.pid("board/pid")]);
    browser.wait_for("it is said", "!document.querySelector('#down').hidden");
    browser.picture(&folder.join("not-live.webp"));
}
