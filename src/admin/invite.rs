//! `rollcall-admin invite`: the first host's side of `join`. A further host asks by the database, and proves that it was
//! invited by a MAC; the signer answers with certificates, and proves by the same secret that the CA in the answer is ours.
//! So whoever can write into the database can neither get a server's certificate nor give a host another CA.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::desk::Desk;
use super::folder::Folder;
use super::issue::{noted, pem};
use super::signer::{Subject, verify};
use super::{Error, issue, report};
use crate::cli::{ArgsInfo, FromArgs, ServerName, Timespan, note, printable, seconds, setting};
use crate::files;
use crate::http::identity::{Canary, Identity};
use crate::protocol::pseudonym::Privacy;
use crate::store::{Joining, Store};
use crate::x509::Request;

/// An invitation is good for so long.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// let a further host join (just join there): prints the command, whose secret is good once and for an hour
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "invite")]
pub struct Invite {
    /// the name of its server (ROLLCALL_NAME), of letters, digits, dots and hyphens
    #[argh(positional)]
    name: String,
    /// further names and addresses that clients call it by; its certificate is for these, its name and localhost
    #[argh(positional)]
    hosts: Vec<String>,
}

/// The secret that both hosts know, and the database does not.
pub struct Secret(hmac::Key);

impl Secret {
    /// From 64 hex digits.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = hex::decode(text.trim()).ok().filter(|bytes| bytes.len() == 32)?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// `way` keeps a request from passing for an answer.
    pub fn seal(&self, way: &str, text: &str) -> String {
        format!("{}\n{text}", hex::encode(hmac::sign(&self.0, format!("{way}\n{text}").as_bytes()).as_ref()))
    }

    pub fn open<'a>(&self, way: &str, sealed: &'a str) -> Option<&'a str> {
        let (tag, text) = sealed.split_once('\n')?;
        let tag = hex::decode(tag).ok()?;
        hmac::verify(&self.0, format!("{way}\n{text}").as_bytes(), &tag).ok().map(|()| text)
    }
}

pub const REQUEST: &str = "rollcall join request";
pub const ANSWER: &str = "rollcall join answer";

/// PEM of requests (PKCS #10).
pub struct Asked {
    pub server: String,
    pub canary: String,
}

pub struct Answer {
    /// PEM of certificates.
    pub ca: String,
    pub server: String,
    pub canary: String,
    /// The email of the canary, if there is one. This and the settings that all servers of one database share become lines of a
    /// file that root reads: each has a type of its own, and no text of the first host goes there.
    pub canary_email: Canary,
    pub identity: Identity,
    pub privacy: Privacy,
}

struct Invited {
    secret: String,
    until: u64,
    /// As openssl writes them.
    hosts: Vec<String>,
    /// Once it was used: the public key (hex) of the server that it is good for. A run that failed later is repeated with
    /// the same key, and gets the same.
    key: Option<String>,
}

fn field(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().map(str::to_owned)
}

impl Invited {
    fn read(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let hosts = value["hosts"].as_array()?.iter().map(|host| host.as_str().map(str::to_owned));
        Some(Self {
            secret: field(&value, "secret")?,
            until: value["until"].as_u64()?,
            hosts: hosts.collect::<Option<_>>()?,
            key: field(&value, "key"),
        })
    }

    fn has_ended(&self) -> bool {
        self.until <= seconds(SystemTime::now())
    }

    fn write(&self, desk: &Desk, name: &str) -> Result<(), Error> {
        let Self { secret, until, hosts, key } = self;
        let text = json!({"secret": secret, "until": until, "hosts": hosts, "key": key}).to_string();
        desk.folder.hide(&file(desk, name), text.as_bytes())
    }
}

impl Asked {
    pub fn text(&self) -> String {
        json!({"server": self.server, "canary": self.canary}).to_string()
    }

    fn read(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Self { server: field(&value, "server")?, canary: field(&value, "canary")? })
    }
}

impl Answer {
    fn text(&self) -> String {
        let Self { ca, server, canary, canary_email, identity, privacy } = self;
        json!({
            "ca": ca, "server": server, "canary": canary, "canary_email": canary_email.to_string(),
            "identity": identity.to_string(), "privacy": privacy.to_string(),
        })
        .to_string()
    }

    pub fn read(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let field = |name| field(&value, name);
        let canary_email: Canary = field("canary_email")?.parse().ok()?;
        // The email is the name of a file, too.
        if let Some(email) = &canary_email.0 {
            Folder::check_name(email.as_str()).ok()?;
        }
        Some(Self {
            ca: field("ca")?,
            server: field("server")?,
            canary: field("canary")?,
            canary_email,
            identity: field("identity")?.parse().ok()?,
            privacy: field("privacy")?.parse().ok()?,
        })
    }
}

/// The name of a server that is a role's and a file's, too.
pub fn check(name: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    // With rollcall_server_ it is a role, whose name has 63 bytes.
    match !name.is_empty() && name.len() <= 40 && name.bytes().all(is_plain) && !name.starts_with(['.', '-'])
    {
        true => Ok(()),
        false => Err(Error::Join(format!(
            "the name {name:?} of a server that joins has 1 to 40 of a-z, 0-9, dots and hyphens"
        ))),
    }
}

const INVITED: &str = "invited";

pub fn file(desk: &Desk, name: &str) -> PathBuf {
    desk.folder.path(INVITED).join(name)
}

/// Removes those that have ended, as far as it can. One that was used stays until then: the run may have failed, and is
/// repeated with it.
pub fn forget_ended(folder: &Folder) {
    // Most hosts have invited nobody.
    let Ok(files) = fs::read_dir(folder.path(INVITED)) else { return };
    for path in files.flatten().map(|file| file.path()) {
        let invited = files::read_secret(&path).ok().and_then(|text| Invited::read(&text));
        if invited.is_some_and(|invited| invited.has_ended())
            && let Err(error) = folder.remove(&path)
        {
            note(format_args!("rollcall-admin: WARNING: an invitation that has ended stays: {error}"));
        }
    }
}

pub async fn invite(store: &Store, Invite { name, hosts }: &Invite) -> Result<(), Error> {
    check(name)?;
    if *name == setting::<ServerName>(None, "ROLLCALL_NAME", "")?.0 {
        return Err(Error::Join(format!("{name} is the name of this host's server; each has its own")));
    }
    let desk = Desk::open()?;
    desk.issuer()?;
    let mut names: Vec<String> = ["DNS:localhost", "IP:127.0.0.1", "IP:::1"].map(str::to_owned).into();
    names.extend(issue::host(name));
    for host in hosts {
        names.push(issue::host(host)?);
    }
    names.sort();
    names.dedup();
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| Error::Random)?;
    let secret = hex::encode(secret);
    let until = seconds(SystemTime::now()) + LIFETIME.as_secs();
    let folder = desk.folder.path(INVITED);
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let invited = Invited { secret, until, hosts: names, key: None };
    invited.write(&desk, name)?;
    // The list that the other host needs first.
    super::crl::refresh(store, &desk, super::crl::When::IfDue, super::crl::Forgotten::Revoke).await?;
    if !store.is_on_the_network().await? {
        note(
            "rollcall-admin: WARNING: no other host reaches this database: it listens on no address of the network \
             (listen_addresses). Give it one, or move to a database that has one, first: docs/operations.md, \
             \"A database of your own\"",
        );
    }
    report(&name, &format!("may join within {}, as {}", Timespan(LIFETIME), invited.hosts.join(", ")))?;
    report(&"there:", &format!("just join DATABASE_URL --invitation {name}:{}", invited.secret))
}

/// Answers those who join. Returns how many could not be answered.
pub async fn answer_all(store: &Store, desk: &Desk, joining: &[Joining]) -> Result<usize, Error> {
    let mut failed = 0;
    for one in joining {
        match answer(store, desk, one).await {
            Ok(()) => continue,
            // Its asker is told, and not why.
            Err(Error::Join(why)) => {
                note(format_args!("rollcall-admin: {} cannot join: {why}", printable(&one.name)));
                store.end_join(one).await?;
            }
            Err(error) => {
                note(format_args!("rollcall-admin: {} cannot join yet: {error}", printable(&one.name)));
                failed += 1;
            }
        }
    }
    Ok(failed)
}

async fn answer(store: &Store, desk: &Desk, joining: &Joining) -> Result<(), Error> {
    let not = |why: &str| Error::Join(why.to_owned());
    check(&joining.name)?;
    let file = file(desk, &joining.name);
    let ended = || not("it is not invited here, or its invitation has ended: just invite NAME");
    let text = files::read_secret(&file).map_err(|_| ended())?;
    let damaged = || not("its invitation is damaged: just invite NAME");
    let mut invited = Invited::read(&text).ok_or_else(damaged)?;
    if invited.has_ended() {
        return Err(ended());
    }
    let secret = Secret::read(&invited.secret).ok_or_else(damaged)?;
    let asked = secret.open(REQUEST, &joining.request);
    let asked: Asked =
        asked.and_then(Asked::read).ok_or_else(|| not("its request was made with another invitation"))?;
    let read = |request: &str| {
        Request::read(request.as_bytes()).map_err(|error| Error::Join(format!("its request: {error}")))
    };
    let (server, bird) = (read(&asked.server)?, read(&asked.canary)?);
    let key = hex::encode(&server.public_key);
    match &invited.key {
        Some(first) if *first != key => {
            return Err(not("its invitation was used by another run: just invite NAME"));
        }
        Some(_) => {}
        None => {
            invited.key = Some(key);
            invited.write(desk, &joining.name)?;
        }
    }
    let canary_email: Canary = setting(None, "ROLLCALL_CANARY", "")?;
    let issuer = desk.issuer()?;
    let sign = |subject: &Subject<'_>, request: &Request| {
        desk.signer()?.sign(subject, &request.der, issuer.as_ref(), &desk.trusted)
    };
    let server = sign(&Subject::Server(&invited.hosts), &server)?;
    let mut canary_pem = String::new();
    if let Some(email) = &canary_email.0 {
        let chain = sign(&Subject::Client(email), &bird)?;
        let authority = verify(&chain, &desk.trusted).map_err(Error::Unverified)?;
        store.note(&noted(email, &chain[0], authority, Some(device(&joining.name)))?, true).await?;
        canary_pem = pem(&chain);
    }
    let answer = Answer {
        ca: pem(&desk.trusted),
        server: pem(&server),
        canary: canary_pem,
        canary_email,
        identity: desk.settings.identity,
        privacy: setting(None, "ROLLCALL_PRIVACY", "clear")?,
    };
    match store.answer_join(joining, &secret.seal(ANSWER, &answer.text())).await? {
        true => report(&joining.name, &format!("joins, with a certificate for {}", invited.hosts.join(", "))),
        false => report(&joining.name, "does not wait for the answer any more"),
    }
}

/// The name of its canary's certificate.
pub fn device(name: &str) -> String {
    format!("canary-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first host may be anybody's by now.
    #[test]
    fn an_answer_with_a_line_too_many_is_none() {
        let good = json!({
            "ca": "", "server": "", "canary": "", "canary_email": "bird@example.com", "identity": "cn", "privacy": "pseudonym",
        });
        let read = Answer::read(&good.to_string()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&read.text()).unwrap(), good);
        for (field, value) in [
            ("identity", "cn\nROLLCALL_RELOAD=/tmp/x"),
            ("privacy", "clear\nROLLCALL_RELOAD=/tmp/x"),
            ("canary_email", "bird@example.com\nROLLCALL_RELOAD=/tmp/x"),
            ("canary_email", "/etc/bird@example.com"),
        ] {
            let mut bad = good.clone();
            bad[field] = value.into();
            assert!(Answer::read(&bad.to_string()).is_none(), "{field} {value:?}");
        }
    }

    #[test]
    fn what_was_changed_on_the_way_is_not_opened() {
        let secret = Secret::read(&"ab".repeat(32)).unwrap();
        let sealed = secret.seal(REQUEST, "text\nof two lines");
        assert_eq!(secret.open(REQUEST, &sealed), Some("text\nof two lines"));
        assert_eq!(secret.open(ANSWER, &sealed), None);
        assert_eq!(Secret::read(&"ac".repeat(32)).unwrap().open(REQUEST, &sealed), None);
        for changed in
            [sealed.replace("two", "2"), sealed[1..].to_owned(), String::new(), sealed.replace('\n', "")]
        {
            assert_eq!(secret.open(REQUEST, &changed), None, "{changed}");
        }
        for bad in ["", "ab", &"ab".repeat(31), &"xy".repeat(32)] {
            assert!(Secret::read(bad).is_none());
        }
        for (name, is_good) in [
            ("two", true),
            ("b.example-1", true),
            ("", false),
            ("-a", false),
            ("A", false),
            ("a/b", false),
            (&*"a".repeat(41), false),
        ] {
            assert_eq!(check(name).is_ok(), is_good, "{name}");
        }
    }
}
