//! New certificates: for people and their devices, and for the server.
//!
//! A pair is made beside its place, then noted in the database, then put in its place. So a command that is stopped
//! leaves a state that the next one completes: a pair that is noted is placed, another one is thrown away.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use super::desk::Desk;
use super::folder::{Folder, SECRET};
use super::signer::{Subject, verify};
use super::{Enrol, Error, Renew, report};
use crate::cli::seconds;
use crate::files;
use crate::http::identity::Identity;
use crate::keyfile::{self, ItemKind};
use crate::protocol::status::Email;
use crate::store::sighting::{Certificate as Known, Serial};
use crate::store::{CertificateRow, Found, Noted, Store};
use crate::x509::{self, Certificate, NewKey, Request};

/// ub-common-name of RFC 5280.
pub const LONGEST_CN: usize = 64;

pub async fn enrol(store: &Store, options: &Enrol) -> Result<(), Error> {
    let email = Email::new(&options.email).map_err(Error::Email)?;
    let name = options.name.as_deref().unwrap_or(email.as_str());
    Folder::check_name(name)?;
    if name.contains('@') && name != email.as_str() {
        return Err(Error::Name(name.to_owned(), "just revoke would take it for a person's email"));
    }
    if options.csr.is_some() && (options.p12 || options.p12_legacy) {
        return Err(Error::Flags(
            "a bundle holds the key, and with --csr the device keeps it: no --p12 goes with it",
        ));
    }
    let request = options.csr.as_deref().map(read_request).transpose()?;
    let desk = Desk::open()?;
    super::import::import(store, &desk).await?;
    if let Some(file) = &options.cert {
        if request.is_some() || options.p12 || options.p12_legacy {
            return Err(Error::Flags(
                "--cert notes a certificate that is there: neither --csr nor --p12 goes with it",
            ));
        }
        let (certificate, authority) = given(&desk, file, &email)?;
        if let Some(device) = &options.name {
            is_free(store, device, &email).await?;
        }
        return match note(store, &email, &certificate, authority, options.name.clone()).await? {
            true => Err(Error::Given(
                file.clone(),
                "it is revoked, for good; its CA must make another".to_owned(),
            )),
            false => Ok(()),
        };
    }
    desk.settle(store, name).await?;
    match desk.folder.read(name)?.into_iter().next() {
        None => {
            is_free(store, name, &email).await?;
            issue(store, &desk, &email, name, request, true).await?;
            report(&format_args!("{name}.crt"), &format!("made (CN {email})"))?;
        }
        Some(certificate) => keep(store, &desk, &email, name, &certificate, request.as_ref()).await?,
    }
    if options.p12 || options.p12_legacy {
        bundle(desk, &email, name, options.p12_legacy)?;
    }
    Ok(())
}

pub async fn renew(store: &Store, options: &Renew) -> Result<(), Error> {
    let [name] = &options.names[..] else { return Err(Error::OneName) };
    if !options.without.is_empty() {
        return Err(Error::Flags("--without is for the names of the server: renew --server"));
    }
    Folder::check_name(name)?;
    let request = options.csr.as_deref().map(read_request).transpose()?;
    let desk = Desk::open()?;
    super::import::import(store, &desk).await?;
    desk.settle(store, name).await?;
    let Some(old) = desk.folder.read(name)?.into_iter().next() else {
        return Err(Error::NothingToRenew(desk.folder.certificate(name)));
    };
    if request.is_none() && !options.new_key && !desk.folder.key(name).exists() {
        return Err(Error::KeyElsewhere(name.clone()));
    }
    let known = store.certificates_with(&old.fingerprint).await?;
    let holder = known.first().map(|row| &row.email).or(old.emails.first()).or(old.common_names.first());
    let email = Email::new(holder.map(String::as_str).unwrap_or_default()).map_err(Error::Email)?;
    let key_stays = request.is_none();
    issue(store, &desk, &email, name, request, false).await?;
    // The device has its own; that of the certificate before is of no more use here.
    let key = desk.folder.key(name);
    if !key_stays && super::desk::public_key(&key).is_some_and(|public| public == old.public_key) {
        desk.folder.remove(&key)?;
        report(
            &format_args!("{name}.key"),
            "removed: it was that of the certificate before, and the device has another",
        )?;
    }
    report(&format_args!("{name}.crt"), &format!("renewed (CN {email})"))
}

/// A new certificate for the server, by the names that it has and these.
pub fn renew_server(options: &Renew) -> Result<(), Error> {
    if options.csr.is_some() {
        return Err(Error::Flags("--csr is for a device, and not for --server"));
    }
    let desk = Desk::open()?;
    let mut names = server_names(&desk)?;
    for name in &options.names {
        names.push(host(name)?);
    }
    for name in &options.without {
        let name = host(name)?;
        if !names.contains(&name) {
            return Err(Error::NotItsName(name, names.join(", ")));
        }
        names.retain(|other| *other != name);
    }
    make_server(&desk, names)?;
    desk.settings.reload_nginx()
}

pub fn make_server(desk: &Desk, mut names: Vec<String>) -> Result<(), Error> {
    names.sort();
    names.dedup();
    let key = NewKey::generate().map_err(Error::Key)?;
    let request = key.request("localhost", None).map_err(Error::Key)?;
    let issuer = desk.issuer()?;
    let chain = desk.signer()?.sign(&Subject::Server(&names), &request, issuer.as_ref(), &desk.trusted)?;
    let staged = desk.folder.stage("server", Some(&key.pem()), &pem(&chain))?;
    desk.folder.place(&staged)?;
    report(&"server.crt", &format!("made for {}", names.join(", ")))
}

/// This host's names, and those of the certificate that it has.
pub fn server_names(desk: &Desk) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = ["DNS:localhost", "IP:127.0.0.1", "IP:::1"].map(str::to_owned).into();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names.extend(host(own.trim()));
    names.extend(desk.folder.read("server")?.into_iter().take(1).flat_map(|certificate| certificate.hosts));
    Ok(names)
}

pub fn host(name: &str) -> Result<String, Error> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(format!("IP:{address}")),
        Err(_) if name.len() <= 253 && name.split('.').all(is_label) => {
            Ok(format!("DNS:{}", name.to_ascii_lowercase()))
        }
        Err(_) => Err(Error::NotAHost(name.to_owned())),
    }
}

/// A pair that can prove nobody, to see a refusal.
pub fn make_nobody(desk: &Desk, name: &str, cn: &str) -> Result<(), Error> {
    let key = NewKey::generate().map_err(Error::Key)?;
    let request = key.request(cn, None).map_err(Error::Key)?;
    let issuer = desk.issuer()?;
    let chain = desk.signer()?.sign(&Subject::Nobody(cn), &request, issuer.as_ref(), &desk.trusted)?;
    let staged = desk.folder.stage(name, Some(&key.pem()), &pem(&chain))?;
    desk.folder.place(&staged)
}

/// A new certificate for a device, in the place of the one it had.
async fn issue(
    store: &Store,
    desk: &Desk,
    email: &Email,
    name: &str,
    request: Option<Request>,
    enrol: bool,
) -> Result<(), Error> {
    if email.as_str().len() > LONGEST_CN {
        return Err(Error::LongCn(email.clone(), email.as_str().len()));
    }
    let key = if request.is_none() { Some(NewKey::generate().map_err(Error::Key)?) } else { None };
    let request = match (&request, &key) {
        (Some(request), _) => request.der.clone(),
        (None, Some(key)) => key.request(email.as_str(), Some(email.as_str())).map_err(Error::Key)?,
        (None, None) => unreachable!("there is a key where there is no request"),
    };
    let issuer = desk.issuer()?;
    let chain = desk.signer()?.sign(&Subject::Client(email), &request, issuer.as_ref(), &desk.trusted)?;
    let key = key.map(|key| key.pem());
    let staged = desk.folder.stage(name, key.as_deref(), &pem(&chain))?;
    let authority = verify(&chain, &desk.trusted).map_err(Error::Unverified)?;
    let noted = noted(email, &chain[0], authority, Some(name.to_owned()))?;
    let found = store.note(&noted, enrol).await?;
    desk.folder.place(&staged)?;
    if enrol { enrolled(email, &found) } else { Ok(()) }
}

/// The file is there already: it stays, if it is the person's, and the database knows it.
async fn keep(
    store: &Store,
    desk: &Desk,
    email: &Email,
    name: &str,
    certificate: &Certificate,
    request: Option<&Request>,
) -> Result<(), Error> {
    let file = desk.folder.certificate(name);
    let known = store.certificates_with(&certificate.fingerprint).await?;
    let is_theirs = match known.first() {
        Some(row) => row.email == email.as_str(),
        None => names(certificate).any(|name| name.eq_ignore_ascii_case(email.as_str())),
    };
    if !is_theirs || request.is_some_and(|request| request.public_key != certificate.public_key) {
        let holder = known.first().map(|row| row.email.clone()).or(names(certificate).next().cloned());
        return Err(Error::NameTaken(file, holder.unwrap_or_default()));
    }
    if known.iter().any(|row| row.revoked_at.is_some()) {
        return Err(Error::IsRevoked(name.to_owned()));
    }
    if certificate.not_after <= seconds(SystemTime::now()) {
        return Err(Error::HasEnded(name.to_owned()));
    }
    let chain = desk.folder.read(name)?;
    let Ok(authority) = verify(&chain, &desk.trusted) else {
        return Err(Error::AnotherAuthority(name.to_owned()));
    };
    match note(store, email, certificate, authority, Some(name.to_owned())).await? {
        true => Err(Error::IsRevoked(name.to_owned())),
        false => Ok(()),
    }
}

/// Is it revoked? After a restore only its number may be known.
async fn note(
    store: &Store,
    email: &Email,
    certificate: &Certificate,
    authority: &Certificate,
    device: Option<String>,
) -> Result<bool, Error> {
    let found = store.note(&noted(email, certificate, authority, device)?, true).await?;
    if !found.is_revoked {
        enrolled(email, &found)?;
        report(&certificate.serial, if found.was_noted { "was noted already" } else { "noted" })?;
    }
    Ok(found.is_revoked)
}

fn enrolled(email: &Email, found: &Found) -> Result<(), Error> {
    report(email, if found.is_new_person { "enrolled" } else { "was enrolled already" })
}

/// The authority is the CA in ca.crt that stands behind it.
pub fn noted(
    email: &Email,
    certificate: &Certificate,
    authority: &Certificate,
    device: Option<String>,
) -> Result<Noted, Error> {
    Ok(Noted {
        email: email.clone(),
        certificate: Known {
            serial: Serial::new(&certificate.serial).map_err(Error::Certificate)?,
            fingerprint: certificate.fingerprint.clone(),
            not_after: certificate.not_after,
        },
        issuer: authority.subject_text.clone(),
        device,
        revoked_at: None,
    })
}

/// A certificate that somebody else made, which nginx would let in, for this person.
fn given<'a>(desk: &'a Desk, file: &Path, email: &Email) -> Result<(Certificate, &'a Certificate), Error> {
    let bytes = files::read(file, files::SMALL).map_err(Error::file(file))?;
    let chain = x509::certificates(&bytes).map_err(|error| Error::X509(file.to_owned(), error))?;
    let wrong = |why: String| Error::Given(file.to_owned(), why);
    let Some(leaf) = chain.first() else { return Err(wrong("there is no certificate in it".to_owned())) };
    let authority = verify(&chain, &desk.trusted).map_err(wrong)?;
    x509::usable(&leaf.public_key).map_err(|error| wrong(error.to_string()))?;
    if leaf.is_authority || !leaf.for_clients {
        return Err(wrong("its extensions do not make it one for clients".to_owned()));
    }
    if leaf.not_after <= seconds(SystemTime::now()) {
        return Err(wrong("it has ended".to_owned()));
    }
    let proves = |found: &[String]| matches!(found, [one] if one.eq_ignore_ascii_case(email.as_str()));
    let proved = match desk.settings.identity {
        Identity::Cn => proves(&leaf.common_names),
        Identity::San => proves(&leaf.emails),
        Identity::Registered => true,
    };
    match proved {
        true => Ok((leaf.clone(), authority)),
        false => Err(wrong(format!(
            "it proves another name (CN {:?}, rfc822Name {:?}); ROLLCALL_IDENTITY={}",
            leaf.common_names, leaf.emails, desk.settings.identity
        ))),
    }
}

/// Nobody else has a device of this name, so that a revocation by the name is of one person's.
async fn is_free(store: &Store, name: &str, email: &Email) -> Result<(), Error> {
    let now = seconds(SystemTime::now());
    let rows = store.certificates_on(name).await?;
    let lives = |row: &&CertificateRow| row.revoked_at.is_none() && row.certificate.not_after > now;
    match rows.iter().filter(lives).find(|row| row.email != email.as_str()) {
        Some(row) => Err(Error::DeviceTaken(name.to_owned(), row.email.clone())),
        None => Ok(()),
    }
}

fn read_request(file: &Path) -> Result<Request, Error> {
    let bytes = files::read(file, files::SMALL).map_err(Error::file(file))?;
    Request::read(&bytes).map_err(|error| Error::X509(file.to_owned(), error))
}

fn names(certificate: &Certificate) -> impl Iterator<Item = &String> {
    certificate.emails.iter().chain(&certificate.common_names)
}

pub fn pem(chain: &[Certificate]) -> String {
    chain.iter().map(|certificate| x509::pem("CERTIFICATE", &certificate.der)).collect()
}

/// Key, certificate and CAs in one file, as browsers take them. Others may work in the folder while openssl waits for a
/// password.
fn bundle(desk: Desk, email: &Email, name: &str, legacy: bool) -> Result<(), Error> {
    let key = desk.folder.key(name);
    if !key.exists() {
        return Err(Error::NoKeyForBundle(name.to_owned()));
    }
    let file = desk.folder.path(&format!("{name}.p12"));
    let mut openssl = Command::new("openssl");
    openssl.args(["pkcs12", "-export", "-name", email.as_str()]);
    openssl.arg("-in").arg(desk.folder.certificate(name)).arg("-inkey").arg(key);
    openssl.arg("-certfile").arg(desk.folder.certificate("ca"));
    drop(desk);
    if legacy {
        openssl.arg("-legacy");
    }
    if std::env::var_os("ROLLCALL_P12_PASSWORD").is_some_and(|password| !password.is_empty()) {
        openssl.args(["-passout", "env:ROLLCALL_P12_PASSWORD"]);
    }
    let failed = |why: String| Error::Bundle(file.clone(), why);
    openssl.stdin(Stdio::inherit()).stderr(Stdio::inherit());
    let Output { status, stdout, .. } = openssl.output().map_err(|error| failed(error.to_string()))?;
    let is_whole =
        keyfile::items(&stdout).is_ok_and(|items| items.iter().any(|item| item.kind == ItemKind::Pkcs12));
    if !status.success() || !is_whole {
        return Err(failed(format!("openssl pkcs12: {status}")));
    }
    files::replace_with_mode(&file, &stdout, SECRET).map_err(Error::file(&file))?;
    report(
        &format_args!("{name}.p12"),
        if legacy {
            "made in the old form, whose encryption (RC2, 3DES) is weak: delete it once it is on the device"
        } else {
            "made; a system that calls its password wrong (Windows Server 2016, macOS 12, Android 12, those before them, older iOS) needs --p12-legacy"
        },
    )
}

/// A time in seconds since the Unix epoch.
pub fn rfc3339(time: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    humantime::format_rfc3339_seconds(time).to_string()
}
