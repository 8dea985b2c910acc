//! "Several servers" of docs/operations.md: a second clone joins the first one's database, as a second host would.

use std::fs::OpenOptions;
use std::io::Write;

use super::Clone;
use crate::stack::wait_until;

/// The private cluster has peer authentication: it is on this host alone, and lets in whom it is told.
fn let_in(clone: &Clone, name: &str) {
    let user = clone.runs("id -un", 0, "");
    let mut lines = String::new();
    for role in ["server", "reader"] {
        for system in [user.trim(), "rollcall"] {
            lines += &format!("rollcall {system} rollcall_{role}_{name}\n");
        }
    }
    let file = clone.folder.join(".run/postgres/data/pg_ident.conf");
    OpenOptions::new().append(true).open(file).unwrap().write_all(lines.as_bytes()).unwrap();
    clone.runs("psql -qX -h $PWD/.run/postgres -U postgres -d rollcall -c 'select pg_reload_conf()'", 0, "");
}

#[test]
fn a_second_clone_joins_and_leaves() {
    let (first, second) = (Clone::new(), Clone::new());
    first.runs("just up", 0, "answers devices that renew");
    let_in(&first, "two");
    let said = first.types_as(
        "just invite NAME HOST…",
        "just invite two second.example.com",
        0,
        "may join within 1h",
    );
    first.types_as(
        "just invite NAME [HOST…]",
        "just invite three third.example.com",
        0,
        "DNS:third.example.com",
    );
    // The second clone is on the same host, and reaches the socket.
    assert!(said.contains("WARNING: no other host reaches this database"), "{said}");
    let invitation =
        said.rsplit_once("--invitation ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    // Those of deploy/README.md, as it has them.
    first.runs(
        "sed -n '/^alter role rollcall createrole;/,/^```/p' deploy/README.md | grep -v '```' \
         | psql -qX -v ON_ERROR_STOP=1 -h $PWD/.run/postgres -U postgres -d rollcall",
        0,
        "",
    );
    let url = format!("postgres://rollcall@localhost/rollcall?host={}/.run/postgres", first.folder.display());
    let join = format!("just join '{url}' --invitation {invitation}");
    second.types_as("just join DATABASE_URL --invitation NAME:SECRET", &join, 0, "two has joined");
    second.types("rm certs/broadcast.*", 0, "");
    second.types("just up", 0, "takes each new CRL from the database");
    second.runs("just status", 0, "ready");
    second.types("just crl", 0, "valid for");
    second.runs("just enrol x@example.com", 1, "do that on the host with the key of the CA");
    let pub_of = |clone: &Clone| clone.runs("grep -v -- ----- certs/broadcast.pub", 0, "").trim().to_owned();
    let printed = first.types("just keys", 0, "# the server two, key ");
    assert!(printed.contains(&pub_of(&first)) && printed.contains(&pub_of(&second)), "{printed}");
    first.types("just keys >servers.pub", 0, "");
    first.types("just keys --json", 0, "\"server\":\"two\"");
    first.types_as("just keys [--json]", "just keys --json", 0, "\"signs\":true");
    let listener = first.listens_as("just listen --json", "just listen --json");
    first.runs("just client", 0, "Success!");
    wait_until("it hears", || listener.out().contains("\"verified\":true"));
    drop(listener);
    first.runs("cd certs; rollcall-listen --key ../servers.pub --timeout 100ms", 0, "");
    let leave = format!("export DATABASE_URL='{url}'; just leave two");
    first.types_as("just leave NAME", &leave, 0, "two has left");
    first.types_as("just leave NAME --forget", &format!("{leave} --forget"), 0, "two has left");
    first.types_as("just leave NAME [--forget]", &format!("{leave} --forget"), 1, "there is no server two");
    // A third one has not joined.
    let third = Clone::new();
    let anew = format!("export DATABASE_URL='{url}'; just ");
    third.runs(&format!("{anew} up"), 1, "is the database of another CA (CN=rollcall CA");
    third.types_as(
        "just ca init --forget-others",
        &format!("{anew} ca init --forget-others"),
        0,
        "is forgotten",
    );
    third.types_as("just ca init [--forget-others]", &format!("{anew} ca init --forget-others"), 0, "");
}
