//! The signer is a seam: a request goes to a command, and that which comes back is believed once it was checked.
//!
//! By default the command is `certs/ca sign`, of which this program holds a copy; `ROLLCALL_SIGN` names another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use super::Error;
use super::folder::Folder;
use crate::cli::{seconds, setting};
use crate::protocol::status::Email;
use crate::x509::{self, Certificate, Crl, NewKey};

/// The hands of our own CA.
const SCRIPT: &str = include_str!("../../certs/ca");

/// A clock that is behind, and nginx's, must find valid that which is made now.
pub const BACK: u64 = 5 * 60;
const DAY: u64 = 24 * 60 * 60;
const AUTHORITY_DAYS: u64 = 3650;

/// Bytes of a certificate with its chain.
const LARGEST: u64 = 1 << 16;
/// How long its output may come after its end.
const LATE: Duration = Duration::from_secs(5);
/// Seconds that a command of somebody else may take.
const PATIENCE: &str = "60";

/// The holder of a new certificate, and its job.
pub enum Subject<'a> {
    Client(&'a Email),
    /// A name that is no email, to see a refusal.
    Nobody(&'a str),
    /// The names and addresses that clients call the server by, as openssl writes them.
    Server(&'a [String]),
}

/// The serial numbers of a CRL, and since when each is revoked, in seconds since the Unix epoch.
pub type Entries<'a> = BTreeMap<&'a str, u64>;

/// The CA that signs: its certificate, and the file of its key.
pub struct Issuer {
    pub certificate: Certificate,
    pub key: PathBuf,
}

pub struct Signer<'a> {
    folder: &'a Folder,
    /// The command of `ROLLCALL_SIGN`.
    command: Option<String>,
    client_days: u64,
}

/// The command of `ROLLCALL_SIGN`, and the lifetime of a client's certificate in days.
pub fn settings() -> Result<(Option<String>, u64), Error> {
    let command: String = setting(None, "ROLLCALL_SIGN", "")?;
    let client_days: u64 = setting(None, "ROLLCALL_CERT_DAYS", "365")?;
    if !(1..=3650).contains(&client_days) {
        return Err(Error::Days(client_days));
    }
    Ok((Some(command).filter(|command| !command.trim().is_empty()), client_days))
}

/// The pair that signs announcements, and the key of their pseudonyms; those that are there stay.
pub fn make_keys(certs: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Signer("certs/ca keys".to_owned(), error);
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "certs/ca", "keys"]).env("ROLLCALL_CERTS", certs).stdin(Stdio::null());
    match command.status().map_err(failed)? {
        status if status.success() => Ok(()),
        status => Err(failed(io::Error::other(status.to_string()))),
    }
}

impl Subject<'_> {
    fn cn(&self) -> &str {
        match self {
            Subject::Client(email) => email.as_str(),
            Subject::Nobody(name) => name,
            Subject::Server(_) => "localhost",
        }
    }

    fn san(&self) -> String {
        match self {
            Subject::Client(email) => format!("email:{email}"),
            Subject::Server(names) => names.join(","),
            Subject::Nobody(_) => String::new(),
        }
    }

    fn usage(&self) -> &'static str {
        match self {
            Subject::Client(_) | Subject::Nobody(_) => "clientAuth",
            Subject::Server(_) => "serverAuth",
        }
    }
}

impl<'a> Signer<'a> {
    pub fn new(folder: &'a Folder) -> Result<Self, Error> {
        let (command, client_days) = settings()?;
        Ok(Self { folder, command, client_days })
    }

    /// Is it somebody else's command that signs?
    pub fn is_elsewhere(&self) -> bool {
        self.command.is_some()
    }

    /// A certificate for the key of this request (PKCS #10, DER), and the intermediate CAs above it.
    pub fn sign(
        &self,
        subject: &Subject<'_>,
        request: &[u8],
        issuer: Option<&Issuer>,
        trusted: &[Certificate],
    ) -> Result<Vec<Certificate>, Error> {
        let now = seconds(SystemTime::now());
        let days = match subject {
            Subject::Client(_) | Subject::Nobody(_) => self.client_days,
            Subject::Server(_) => 397,
        };
        let (from, until) = (now.saturating_sub(BACK), now + days * DAY);
        let mut command = match &self.command {
            Some(command) => {
                let mut bounded = Command::new("timeout");
                bounded.args(["-k", "5", PATIENCE, "sh", "-c", command]);
                bounded
            }
            None => self.own("sign", issuer),
        };
        command
            .env("ROLLCALL_SIGN_CN", subject.cn())
            .env("ROLLCALL_SIGN_SAN", subject.san())
            .env("ROLLCALL_SIGN_USAGE", subject.usage());
        let pem = x509::pem("CERTIFICATE REQUEST", request);
        let answer = self.run(command, from, until, pem.into_bytes(), LARGEST)?;
        let refused = |why: String| Error::Signed(self.name(), why);
        let mut chain = x509::certificates(&answer).map_err(|error| refused(error.to_string()))?;
        let wanted = x509::Request::read(request).map_err(|error| refused(error.to_string()))?.public_key;
        let Some(at) = chain.iter().position(|certificate| certificate.public_key == wanted) else {
            let none = if chain.is_empty() { "no certificate" } else { "a certificate of another key" };
            return Err(refused(format!("it printed {none}")));
        };
        if chain[at].issuer == chain[at].subject {
            return Err(refused("it is its own authority".to_owned()));
        }
        chain[..=at].rotate_right(1);
        // A root does not belong into a chain.
        chain.retain(|certificate| certificate.issuer != certificate.subject);
        // It may have taken its time.
        check(subject, &chain, seconds(SystemTime::now()), until, trusted).map_err(refused)?;
        Ok(chain)
    }

    /// The certificate of a new CA that signs itself.
    pub fn authority(&self, name: &str, key: &NewKey, file: &Path) -> Result<Certificate, Error> {
        let now = seconds(SystemTime::now());
        let request = key.request(name, None).map_err(Error::Key)?;
        let mut command = self.own("sign", None);
        command
            .env("ROLLCALL_SIGN_CN", name)
            .env("ROLLCALL_SIGN_USAGE", "authority")
            .env("ROLLCALL_SIGN_KEY", file);
        let pem = x509::pem("CERTIFICATE REQUEST", &request);
        let until = now + AUTHORITY_DAYS * DAY;
        let answer = self.run(command, now.saturating_sub(BACK), until, pem.into_bytes(), LARGEST)?;
        check_authority(&answer, &key.public_key())
    }

    /// The same CA for a further time: its name and its key stay, so that all that it signed verifies.
    pub fn renew(&self, issuer: &Issuer) -> Result<Certificate, Error> {
        let now = seconds(SystemTime::now());
        let command = self.own("renew", Some(issuer));
        let answer = self.run(command, now, now + AUTHORITY_DAYS * DAY, Vec::new(), LARGEST)?;
        let renewed = check_authority(&answer, &issuer.certificate.public_key)?;
        match renewed.subject == issuer.certificate.subject {
            true => Ok(renewed),
            false => Err(Error::Signed(
                "certs/ca renew".to_owned(),
                format!("its name is {}", renewed.subject_text),
            )),
        }
    }

    /// A CRL of this CA, which is checked.
    pub fn crl(
        &self,
        issuer: &Issuer,
        entries: &Entries<'_>,
        days: u64,
        number: u64,
    ) -> Result<String, Error> {
        let now = seconds(SystemTime::now());
        let lines: String =
            entries.iter().map(|(serial, at)| format!("{serial} {}\n", &digits(*at)[2..])).collect();
        let mut command = self.own("crl", Some(issuer));
        command.env("ROLLCALL_SIGN_NUMBER", format!("{number:016X}"));
        let answer = self.run(
            command,
            now.saturating_sub(BACK),
            now + days * DAY,
            lines.into_bytes(),
            x509::LARGEST_CRL,
        )?;
        let refused = |why: String| Error::Signed("certs/ca crl".to_owned(), why);
        let crls = x509::crls(&answer).map_err(|error| refused(error.to_string()))?;
        let [crl] = &crls[..] else { return Err(refused("it did not print one CRL".to_owned())) };
        check_crl(crl, issuer, entries, now).map_err(refused)?;
        String::from_utf8(answer).map_err(|error| refused(error.to_string()))
    }

    fn name(&self) -> String {
        self.command.clone().unwrap_or_else(|| "certs/ca sign".to_owned())
    }

    fn own(&self, verb: &str, issuer: Option<&Issuer>) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", SCRIPT, "certs/ca", verb]);
        if let Some(Issuer { certificate, key }) = issuer {
            command
                .env("ROLLCALL_SIGN_CA", x509::pem("CERTIFICATE", &certificate.der))
                .env("ROLLCALL_SIGN_KEY", key);
        }
        command
    }

    /// Runs it, and returns that which it printed.
    fn run(
        &self,
        mut command: Command,
        from: u64,
        until: u64,
        input: Vec<u8>,
        most: u64,
    ) -> Result<Vec<u8>, Error> {
        // The last argument of each is its name.
        let is_own = command.get_program() == "bash";
        let name = command.get_args().last().unwrap_or_default().to_string_lossy();
        let name = if is_own { format!("certs/ca {name}") } else { name.into_owned() };
        let failed = |error: io::Error| Error::Signer(name.clone(), error);
        command
            .env("ROLLCALL_CERTS", self.folder.path(""))
            .env("ROLLCALL_SIGN_FROM", digits(from))
            .env("ROLLCALL_SIGN_UNTIL", digits(until))
            .current_dir(self.folder.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that reads nothing must not keep us from reading.
        let writing = thread::spawn(move || stdin.write_all(&input));
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.take(most + 1).read_to_end(&mut answer);
            let _ = sender.send(read.map(|_| answer));
        });
        let status = child.wait().map_err(failed)?;
        // A program that it has left behind may hold the pipe.
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it has ended, and its output has not");
        let answer = receiver.recv_timeout(LATE).map_err(late).flatten().map_err(failed)?;
        // It may answer without a look at its input: the checks decide.
        if writing.is_finished() {
            let _ = writing.join();
        }
        match status.code() {
            _ if answer.len() as u64 > most => Err(Error::Signed(name, format!("more than {most} bytes"))),
            Some(0) => Ok(answer),
            Some(124 | 137) if !is_own => Err(Error::Signed(name, format!("no end within {PATIENCE} s"))),
            _ => Err(Error::Signer(name, io::Error::other(status.to_string()))),
        }
    }
}

fn check(
    subject: &Subject<'_>,
    chain: &[Certificate],
    now: u64,
    until: u64,
    trusted: &[Certificate],
) -> Result<(), String> {
    let leaf = &chain[0];
    if leaf.common_names != [subject.cn()] {
        return Err(format!("its names are {:?}, and {:?} was asked for", leaf.common_names, subject.cn()));
    }
    match subject {
        Subject::Client(email)
            if leaf.emails.iter().any(|found| !found.eq_ignore_ascii_case(email.as_str())) =>
        {
            return Err(format!("it names {:?} beside {email}", leaf.emails));
        }
        Subject::Server(names) => {
            if let Some(name) = names.iter().find(|name| !leaf.hosts.contains(name)) {
                return Err(format!("it is not for {name}"));
            }
        }
        _ => {}
    }
    let fits = if let Subject::Server(_) = subject { leaf.for_servers } else { leaf.for_clients };
    if leaf.is_authority || !fits {
        return Err(format!("its extensions do not make it one for {}", subject.usage()));
    }
    if leaf.not_before > now || leaf.not_after <= now {
        return Err("it is not valid now; are both clocks right?".to_owned());
    }
    // The last second is the signer's to round.
    if leaf.not_after > until + 60 {
        return Err("it lives for longer than was asked".to_owned());
    }
    verify(chain, trusted).map(|_| ())
}

/// Which of these CAs stands behind the first certificate, by the others if need be? nginx takes one between.
pub fn verify<'a>(chain: &[Certificate], trusted: &'a [Certificate]) -> Result<&'a Certificate, String> {
    let (leaf, between) = chain.split_first().ok_or("there is no certificate")?;
    for authority in trusted {
        let by_another = |middle: &Certificate| {
            leaf.is_signed_by(middle).is_ok() && middle.is_signed_by(authority).is_ok()
        };
        if leaf.is_signed_by(authority).is_ok() || between.iter().any(by_another) {
            return Ok(authority);
        }
    }
    // The reason about its own issuer comes before others.
    let own = trusted.iter().find(|authority| authority.subject == leaf.issuer);
    match own.and_then(|authority| leaf.is_signed_by(authority).err()) {
        Some(error) => Err(error.to_string()),
        None => Err(format!(
            "its issuer, {}, is not in ca.crt, and no CA in ca.crt stands behind it",
            leaf.issuer_text
        )),
    }
}

fn check_authority(answer: &[u8], key: &[u8]) -> Result<Certificate, Error> {
    let now = seconds(SystemTime::now());
    let refused = |why: String| Error::Signed("certs/ca".to_owned(), why);
    let mut found = x509::certificates(answer).map_err(|error| refused(error.to_string()))?;
    let (Some(certificate), true) = (found.pop(), found.is_empty()) else {
        return Err(refused("it did not print one certificate".to_owned()));
    };
    certificate.is_signed_by(&certificate).map_err(|error| refused(error.to_string()))?;
    if certificate.public_key != key || certificate.not_before > now || certificate.not_after <= now {
        return Err(refused("it has another key, or is not valid now".to_owned()));
    }
    Ok(certificate)
}

fn check_crl(crl: &Crl, issuer: &Issuer, entries: &Entries<'_>, now: u64) -> Result<(), String> {
    crl.is_signed_by(&issuer.certificate).map_err(|error| error.to_string())?;
    if crl.this_update > now || crl.next_update.is_none_or(|end| end <= now) {
        return Err("its dates do not enclose the present".to_owned());
    }
    match has_these(crl, entries) {
        true => Ok(()),
        false => {
            Err(format!("its {} entries are not the {} that were ordered", crl.revoked.len(), entries.len()))
        }
    }
}

/// Does the list name these serial numbers, and no others?
pub fn has_these(crl: &Crl, entries: &Entries<'_>) -> bool {
    let listed: BTreeSet<&str> = crl.revoked.iter().map(|entry| entry.serial.as_str()).collect();
    listed.into_iter().eq(entries.keys().copied())
}

/// YYYYMMDDHHMMSSZ.
fn digits(time: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':', 'T'], "")
}
