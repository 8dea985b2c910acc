//! `rollcall-admin ca`: the life of our own CA, and the look at somebody else's.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use ring::rand::{SecureRandom, SystemRandom};

use super::desk::Desk;
use super::signer::Issuer;
use super::{Error, Replace, crl, issue, report};
use crate::cli::{note, seconds};
use crate::files;
use crate::keyfile::{self, ItemKind};
use crate::stack::trust::Authority;
use crate::store::{CertificateRow, Store};
use crate::x509::{Certificate, NewKey};

/// A certificate that was used within this is in use.
const RECENT: u64 = 30 * 24 * 60 * 60;

/// Makes that which is missing, and keeps that which is there. It makes nothing of somebody else's CA.
pub fn init(forget_others: bool) -> Result<(), Error> {
    let mut desk = Desk::open()?;
    let (authority, key) = (desk.folder.certificate("ca"), desk.folder.key("ca"));
    let given = [authority.clone(), desk.folder.certificate("server"), desk.folder.key("server")];
    if !desk.is_own() {
        if let Some(missing) =
            given.into_iter().find(|file| fs::metadata(file).map_or(0, |file| file.len()) == 0)
        {
            return Err(Error::NotGiven(missing));
        }
    } else {
        match (desk.trusted.is_empty(), key.exists()) {
            (true, true) => desk.trusted = vec![found_again(&desk)?],
            (false, false) => return Err(Error::NoKey { authority, key }),
            _ => {}
        }
        // The private cluster, which no URL names and which may not run yet, is nobody else's.
        if let Ok(url) = super::database_url() {
            super::with_store_at(&url, async |store| alone(store, &desk, forget_others).await)?;
        }
        if desk.trusted.is_empty() {
            desk.trusted = vec![new_authority(&desk, &[])?];
        }
        if desk.folder.read("server")?.is_empty() {
            issue::make_server(&desk, issue::server_names(&desk)?)?;
        }
        if desk.folder.read("bad_client")?.is_empty() {
            // A signer with rules of its own may refuse it.
            if let Err(error) = issue::make_nobody(&desk, "bad_client", "not_an_email") {
                note(format_args!("rollcall-admin: bad_client was not made: {error}"));
            }
        }
    }
    match desk.folder.read("server")?.first() {
        Some(server) if server.not_after <= seconds(SystemTime::now()) => Err(Error::ServerEnded),
        _ => Ok(()),
    }
}

/// Two CAs on one database would refuse the devices of each other. The lists in it tell whose it is.
async fn alone(store: &Store, desk: &Desk, forget_others: bool) -> Result<(), Error> {
    let own = desk.own();
    let own: Vec<&str> = own.iter().map(|issuer| issuer.certificate.subject_text.as_str()).collect();
    let there = store.published_numbers().await?.into_iter().map(|(name, _)| name);
    let (ours, others): (Vec<_>, Vec<_>) = there.partition(|name| own.contains(&name.as_str()));
    if forget_others {
        for name in others {
            store.forget_crl(&name).await?;
            report(&name, "is forgotten: nobody takes its list from the database any more")?;
        }
    } else if ours.is_empty() && !others.is_empty() {
        return Err(Error::AnothersDatabase(others.join(", ")));
    }
    Ok(())
}

/// Two CAs must not have one name (RFC 5280, section 4.1.2.4): a verifier would try the one's key on certificates that
/// the other signed.
fn new_authority(desk: &Desk, beside: &[Certificate]) -> Result<Certificate, Error> {
    let mut random = [0; 4];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::Random)?;
    let name = format!("rollcall CA {}", hex::encode(random));
    let key = NewKey::generate().map_err(Error::Key)?;
    let file = desk.folder.path("ca.key.staged");
    desk.folder.hide(&file, key.pem().as_bytes())?;
    let certificate = desk.signer()?.authority(&name, &key, &file)?;
    let all = [std::slice::from_ref(&certificate), beside].concat();
    let staged = desk.folder.stage("ca", Some(&key.pem()), &issue::pem(&all))?;
    desk.folder.place(&staged)?;
    report(&"ca.crt", &format!("made ({})", certificate.subject_text))?;
    Ok(certificate)
}

/// The certificate of a CA whose key is there. Only a certificate that it has signed still knows its name.
fn found_again(desk: &Desk) -> Result<Certificate, Error> {
    let key = desk.folder.key("ca");
    let signed = ["server", "client"].map(|name| desk.folder.read(name).unwrap_or_default());
    let one = signed.into_iter().flatten().next().ok_or_else(|| Error::LostName(key.clone()))?;
    if is_encrypted(&files::read(&key, files::SMALL).map_err(Error::file(&key))?) {
        return Err(Error::LockedName(key));
    }
    let name = one.issuer_text.strip_prefix("CN=").ok_or_else(|| Error::LostName(key.clone()))?;
    let bytes = files::read_secret(&key).map_err(Error::file(&key))?;
    let items = keyfile::items(&bytes).unwrap_or_default();
    let found = items.iter().find(|item| item.kind == ItemKind::PrivateKey);
    let own =
        found.and_then(|item| NewKey::read(&item.bytes).ok()).ok_or_else(|| Error::LostName(key.clone()))?;
    let again = desk.signer()?.authority(name, &own, &key)?;
    one.is_signed_by(&again).map_err(|_| Error::LostName(key.clone()))?;
    desk.folder
        .publish(&desk.folder.certificate("ca"), issue::pem(std::slice::from_ref(&again)).as_bytes())?;
    report(&"ca.crt", &format!("made again ({})", again.subject_text))?;
    Ok(again)
}

/// Our CA for ten further years: with its name and its key, so that all that it signed goes on.
pub fn renew() -> Result<(), Error> {
    let mut desk = ours()?;
    let issuer = current(&desk)?;
    desk.trusted[0] = desk.signer()?.renew(&issuer)?;
    // The server's certificate must verify by it first.
    for name in ["server", "client"] {
        if let Some(signed) = desk.folder.read(name)?.first()
            && signed.is_signed_by(&issuer.certificate).is_ok()
        {
            signed
                .is_signed_by(&desk.trusted[0])
                .map_err(|error| Error::X509(desk.folder.certificate(name), error))?;
        }
    }
    write(&desk)?;
    desk.settings.reload_nginx()?;
    report(
        &"ca.crt",
        &format!(
            "renewed until {}; clients go on with the one that they have",
            issue::rfc3339(desk.trusted[0].not_after)
        ),
    )
}

/// Begins or ends the replacement of our CA by a new one.
pub async fn replace(store: &Store, options: &Replace) -> Result<(), Error> {
    let mut desk = ours()?;
    super::import::import(store, &desk).await?;
    match (desk.old(), options.finish) {
        (None, false) => begin(store, &mut desk).await,
        (Some(old), true) => finish(store, &mut desk, &old, options.yes).await,
        // The last run may have ended early.
        (Some(old), false) if !desk.own().iter().any(|one| one.certificate == old.certificate) => {
            Err(Error::NotFinished)
        }
        (Some(old), false) => begun(store, &desk, &old).await,
        (None, true) => Err(Error::NotReplacing),
    }
}

async fn begin(store: &Store, desk: &mut Desk) -> Result<(), Error> {
    let old = current(desk)?;
    let key = files::read_secret(&old.key).map_err(Error::file(&old.key))?;
    desk.folder.hide(&desk.folder.key("ca.old"), &key)?;
    let pem = issue::pem(std::slice::from_ref(&old.certificate));
    desk.folder.publish(&desk.folder.certificate("ca.old"), pem.as_bytes())?;
    let new = new_authority(desk, &desk.trusted)?;
    desk.trusted.insert(0, new);
    if is_encrypted(&key) {
        report(&"ca.key", "is new, and not encrypted: just ca protect")?;
    }
    begun(store, desk, &old).await
}

/// nginx believes both.
async fn begun(store: &Store, desk: &Desk, old: &Issuer) -> Result<(), Error> {
    crl::refresh(store, desk, crl::When::IfDue, crl::Forgotten::Revoke).await?;
    let (living, _) = living(store, old).await?;
    report(
        &old.certificate.subject_text,
        &format!(
            "stays trusted until just ca replace --finish, with {} of its certificates. Until then: copy ca.crt to every \
         client, which believes the server by it; and give every device a new certificate (just renew NAME)",
            living.len()
        ),
    )
}

async fn finish(store: &Store, desk: &mut Desk, old: &Issuer, yes: bool) -> Result<(), Error> {
    let (living, recent) = living(store, old).await?;
    if !recent.is_empty() && !yes {
        let names =
            recent.iter().map(|row| format!("{} ({})", row.email, row.device.as_deref().unwrap_or("-")));
        return Err(Error::InUse(recent.len(), names.take(10).collect::<Vec<_>>().join(", ")));
    }
    // While both are trusted.
    let server = desk.folder.read("server")?;
    if server.first().is_some_and(|server| server.is_signed_by(&old.certificate).is_ok()) {
        issue::make_server(desk, issue::server_names(desk)?)?;
        desk.settings.reload_nginx()?;
    }
    issue::make_nobody(desk, "bad_client", "not_an_email")?;
    desk.trusted.retain(|authority| authority.public_key != old.certificate.public_key);
    write(desk)?;
    crl::refresh(store, desk, crl::When::Now, crl::Forgotten::Revoke).await?;
    store.forget_crl(&old.certificate.subject_text).await?;
    // The last step, so that each run before it begins anew.
    for file in [&old.key, &desk.folder.certificate("ca.old")] {
        desk.folder.remove(file)?;
    }
    report(
        &old.certificate.subject_text,
        &format!("is not trusted any more, with {} certificates", living.len()),
    )
}

/// The certificates of a CA that nginx lets in; and those of them that are in use.
async fn living(store: &Store, issuer: &Issuer) -> Result<(Vec<CertificateRow>, Vec<CertificateRow>), Error> {
    let now = seconds(SystemTime::now());
    let all = store.certificates().await?;
    let mut living = all.clone();
    living.retain(|row| {
        // One that was noted at its first use may be of any CA.
        row.issuer.as_ref().is_none_or(|name| *name == issuer.certificate.subject_text)
            && row.revoked_at.is_none()
            && row.certificate.not_after > now
    });
    // A device that has used a certificate of another CA since does not need this one.
    let has_another = |old: &CertificateRow| {
        let later = |row: &CertificateRow| row.device == old.device && row.last_used_ns >= old.last_used_ns;
        let of_another = |row: &CertificateRow| row.issuer.is_some() && row.issuer != old.issuer;
        old.device.is_some() && all.iter().any(|row| of_another(row) && later(row))
    };
    let mut recent = living.clone();
    recent.retain(|row| {
        row.last_used_ns.is_some_and(|ns| ns / 1_000_000_000 + RECENT > now) && !has_another(row)
    });
    Ok((living, recent))
}

/// Encrypts the key of our CA. openssl asks for the passphrase, unless `ROLLCALL_CA_PASSIN` says where it is.
pub fn protect() -> Result<(), Error> {
    let desk = ours()?;
    let (issuer, staged) = (current(&desk)?, desk.folder.path("ca.key.staged"));
    let failed = |why: &str| Error::Protect(issuer.key.clone(), why.to_owned());
    if is_encrypted(&files::read(&issuer.key, files::SMALL).map_err(Error::file(&issuer.key))?) {
        return Err(failed("it is encrypted already; openssl pkey -aes256 changes its passphrase"));
    }
    let passphrase = std::env::var("ROLLCALL_CA_PASSIN").ok().filter(|text| !text.is_empty());
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).arg("-in");
        command
    };
    let mut encrypt = openssl(&["pkey", "-aes256"]);
    encrypt.arg(&issuer.key).arg("-out").arg(&staged);
    let mut decrypt = openssl(&["pkey", "-pubout", "-outform", "DER"]);
    decrypt.arg(&staged);
    if let Some(passphrase) = &passphrase {
        encrypt.args(["-passout", passphrase]);
        decrypt.args(["-passin", passphrase]);
    }
    let done = encrypt.status().map_err(|error| failed(&error.to_string()))?;
    let bytes = files::read(&staged, files::SMALL).unwrap_or_default();
    // Read back, before the only copy of the key goes.
    let public = decrypt.output().map_err(|error| failed(&error.to_string()))?.stdout;
    let mut open = openssl(&["pkey", "-noout", "-passin", "pass:"]);
    let is_open = open.arg(&staged).output().is_ok_and(|output| output.status.success());
    desk.folder.remove(&staged)?;
    if !done.success() {
        return Err(failed("openssl took no passphrase; the key is as it was"));
    }
    if is_open {
        return Err(failed("an empty passphrase protects nothing; the key is as it was"));
    }
    if !is_encrypted(&bytes) || public != issuer.certificate.public_key {
        return Err(failed("the encrypted copy cannot be read back; the key is as it was"));
    }
    desk.folder.hide(&issuer.key, &bytes)?;
    report(
        &"ca.key",
        "encrypted; ROLLCALL_CA_PASSIN tells the timer and these commands where its passphrase is",
    )
}

fn is_encrypted(key: &[u8]) -> bool {
    keyfile::items(key).is_ok_and(|items| items.iter().any(|item| item.kind == ItemKind::EncryptedKey))
}

fn ours() -> Result<Desk, Error> {
    let desk = Desk::open()?;
    match desk.settings.trust.authority {
        Authority::Own => Ok(desk),
        Authority::Joined => Err(Error::Joined),
        Authority::External => Err(Error::NotOurs),
    }
}

fn current(desk: &Desk) -> Result<Issuer, Error> {
    desk.own().into_iter().next().ok_or_else(|| Error::NoAuthority(desk.folder.certificate("ca")))
}

fn write(desk: &Desk) -> Result<(), Error> {
    desk.folder.publish(&desk.folder.certificate("ca"), issue::pem(&desk.trusted).as_bytes())
}
