//! `rollcall-admin join`: makes this host one more server of a database; and `leave`, which takes one out.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use async_std::task;
use ring::rand::{SecureRandom, SystemRandom};

use super::desk::{Desk, Settings};
use super::folder::{self, Folder};
use super::invite::{self, ANSWER, Answer, Asked, REQUEST, Secret};
use super::signer::{self, verify};
use super::{Error, crl, is_joined, report, revoke, scram};
use crate::cli::{ArgsInfo, FromArgs, ServerName, note, setting};
use crate::files;
use crate::keyfile;
use crate::protocol::pseudonym::Privacy;
use crate::store::{self, Joining, NewRole, Store};
use crate::x509::{self, NewKey};

/// How long the signer of the first host may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);
/// The keys of a host that has not joined yet.
const KEYS: &str = "joining.key";
/// The groups with the rights of deploy/grants.sql, in which each server has roles of its own.
const GROUPS: [&str; 2] = ["rollcall_server", "rollcall_reader"];

/// make this host one more server of a database: its roles, its keys, its certificates, its settings
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "join")]
pub struct Join {
    /// the database, as its owner (or DATABASE_URL, which no list of processes shows)
    #[argh(positional)]
    pub database_url: Option<String>,
    /// NAME:SECRET, of just invite NAME on the first host (or ROLLCALL_INVITATION)
    #[argh(option)]
    pub invitation: Option<String>,
}

/// take a server out of the database: its roles, its keys, the certificate of its canary
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "leave")]
pub struct Leave {
    /// the name of the server
    #[argh(positional)]
    name: String,
    /// also its row: whoever nobody else has heard since is offline then, and not unknown
    #[argh(switch)]
    forget: bool,
}

pub async fn join(store: &Store, database_url: &str, invitation: Option<String>) -> Result<(), Error> {
    let not = |why: &str| Error::Join(why.to_owned());
    let invitation: String = setting(invitation, "ROLLCALL_INVITATION", "")?;
    let (name, secret) = invitation.split_once(':').unwrap_or_default();
    let secret = Secret::read(secret).ok_or_else(|| {
        not("--invitation, or ROLLCALL_INVITATION, is NAME:SECRET, which just invite NAME on the first host prints")
    })?;
    invite::check(name)?;
    let settings = Settings::read()?;
    let folder = Folder::open(&settings.certs, folder::PATIENCE)?;
    if folder.key("ca").exists() {
        return Err(Error::Join(format!(
            "{} is the key of a CA: this host has a stack of its own; set ROLLCALL_CERTS and ROLLCALL_STATE to folders of the new one",
            folder.key("ca").display()
        )));
    }
    // An invitation is good once: whatever is in the way of the rest shows before it is used.
    let [server, board] = GROUPS.map(|group| role_of(database_url, group, name));
    let ((server_role, server_url), (board_role, board_url)) = (server?, board?);
    let own_roles = [server_role, board_role];
    store.may_make_roles(&own_roles).await.map_err(roles)?;

    let keys = keys(&folder)?;
    let request = |key: &NewKey, name| {
        let der = key.request(name, None).map_err(Error::Key)?;
        Ok::<_, Error>(x509::pem("CERTIFICATE REQUEST", &der))
    };
    let asked = Asked { server: request(&keys[0], "localhost")?, canary: request(&keys[1], "canary")? };
    let joining = store.ask_to_join(name, secret.seal(REQUEST, &asked.text())).await?;
    note("rollcall-admin: waiting for the signer of the first host, up to a minute");
    let answer = wait(store, &joining, &secret).await;
    store.end_join(&joining).await?;
    let answer = answer?;

    let read = |pem: &str| {
        x509::certificates(pem.as_bytes()).map_err(|error| Error::Join(format!("the answer: {error}")))
    };
    let trusted = read(&answer.ca)?;
    let pair = |pem: &str, key: &NewKey| {
        let chain = read(pem)?;
        verify(&chain, &trusted).map_err(Error::Unverified)?;
        match chain[0].public_key == key.public_key() {
            true => Ok(()),
            false => Err(not("the answer has certificates of other keys")),
        }
    };
    pair(&answer.server, &keys[0])?;
    if answer.canary_email.0.is_some() {
        pair(&answer.canary, &keys[1])?;
    }
    // All of it is verified: from here on this host changes.
    folder.publish(&folder.certificate("ca"), answer.ca.as_bytes())?;
    folder.place(&folder.stage("server", Some(&keys[0].pem()), &answer.server)?)?;
    report(&"server.crt", "made by the first host's CA")?;
    if let Some(email) = &answer.canary_email.0 {
        folder.place(&folder.stage(email.as_str(), Some(&keys[1].pem()), &answer.canary)?)?;
    }
    // Its script takes the lock, too.
    drop(folder);
    signer::make_keys(&settings.certs)?;
    let own = keyfile::own_public_keys(&settings.certs).map_err(Error::PublicKeys)?;

    let file = settings.state.join("settings");
    fs::create_dir_all(&settings.state).map_err(Error::file(&settings.state))?;
    let text = format!(
        "ROLLCALL_NAME={name}\nROLLCALL_CA=joined\nROLLCALL_IDENTITY={}\nROLLCALL_PRIVACY={}\nROLLCALL_CANARY={}\n\
         DATABASE_URL={server_url}\nROLLCALL_SERVER_DATABASE_URL={server_url}\nROLLCALL_BOARD_DATABASE_URL={board_url}\n",
        answer.identity, answer.privacy, answer.canary_email,
    );
    store.make_roles(&own_roles).await.map_err(roles)?;
    files::replace_with_mode(&file, text.as_bytes(), folder::SECRET).map_err(Error::file(&file))?;
    let folder = Folder::open(&settings.certs, folder::PATIENCE)?;
    folder.remove(&folder.path(KEYS))?;
    drop(folder);
    report(&name, "has joined")?;
    report(&file.display(), "has its settings, with the passwords of its roles; just up reads them")?;
    if answer.privacy == Privacy::Pseudonym {
        report(
            &"privacy.key",
            &format!(
                "copy that of the first host to {}, so that pseudonyms are the same",
                settings.certs.join("privacy.key").display()
            ),
        )?;
    }
    let ids: Vec<String> = own.iter().map(ToString::to_string).collect();
    report(
        &"listeners",
        &format!("need its key {} too: once it runs, just keys prints the file for them", ids.join(", ")),
    )
}

/// Those of the server and of its canary. They stay until it has joined: the invitation is good for them alone, so that a
/// run that failed half way can be repeated, and nobody else can use it again.
fn keys(folder: &Folder) -> Result<[NewKey; 2], Error> {
    let file = folder.path(KEYS);
    let kept = match files::read_secret(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(Error::file(&file))?,
    };
    let kept: Vec<NewKey> = keyfile::items(&kept)
        .unwrap_or_default()
        .iter()
        .filter_map(|item| NewKey::read(&item.bytes).ok())
        .collect();
    if let Ok(kept) = kept.try_into() {
        return Ok(kept);
    }
    let new = [NewKey::generate().map_err(Error::Key)?, NewKey::generate().map_err(Error::Key)?];
    folder.hide(&file, new.each_ref().map(NewKey::pem).concat().as_bytes())?;
    Ok(new)
}

async fn wait(store: &Store, joining: &Joining, secret: &Secret) -> Result<Answer, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        let Some(answer) = store.answer_to(joining).await? else {
            return Err(Error::Join("the first host refuses it; the log of its signer says why".to_owned()));
        };
        if let Some(sealed) = answer {
            let refused = |why: &str| Error::Join(format!("the answer {why}"));
            let answer = secret.open(ANSWER, &sealed).ok_or_else(|| {
                refused("was not made with this invitation: somebody changed it on the way")
            })?;
            return Answer::read(answer).ok_or_else(|| {
                refused("of the first host is malformed: is it of the same version, and still yours?")
            });
        }
        if Instant::now() > end {
            return Err(Error::Join(
                "the first host does not answer: does its signer run (just status there)? Its log says what is wrong"
                    .to_owned(),
            ));
        }
        task::sleep(LOOK).await;
    }
}

pub async fn leave(store: &Store, Leave { name, forget }: &Leave) -> Result<(), Error> {
    if *name == setting::<ServerName>(None, "ROLLCALL_NAME", "")?.0 {
        return Err(Error::Join(format!(
            "{name} is the server of this host: just down, then just leave {name} on another"
        )));
    }
    // Closed first, for it could write its row anew. Its key and its certificate go in any case.
    let own_roles = GROUPS.map(|group| format!("{group}_{name}"));
    let mut closed = Ok(());
    for role in &own_roles {
        closed = closed.and(store.close_role(role).await);
    }
    let left = store.leave(name, *forget).await?;
    // The host may still have it.
    if !store.certificates_on(&invite::device(name)).await?.is_empty() {
        revoke::revoke_device(store, &invite::device(name)).await?;
    }
    if let Ok(desk) = Desk::open() {
        // Another name was never invited, and could lead elsewhere.
        if invite::check(name).is_ok() {
            desk.folder.remove(&invite::file(&desk, name))?;
        }
        crl::refresh(store, &desk, crl::When::IfDue, crl::Forgotten::Revoke).await?;
    }
    let refused = |error: store::Error| if is_joined() { error.into() } else { roles(error) };
    closed.map_err(refused)?;
    let mut is_known = false;
    for role in &own_roles {
        if store.drop_role(role).await.map_err(refused)? {
            report(role, "dropped")?;
            is_known = true;
        }
    }
    match left {
        None if !is_known => Err(Error::Join(format!("there is no server {name}; just keys names them"))),
        None | Some(0) => report(name, "has left"),
        Some(seen) if *forget => report(
            name,
            &format!("is forgotten: those of its {seen} people whom nobody else hears are offline"),
        ),
        Some(seen) => report(
            name,
            &format!(
                "has left. {seen} people were seen by it last: each is unknown until another server hears them, and just leave {name} --forget calls the rest offline"
            ),
        ),
    }
}

fn roles(error: store::Error) -> Error {
    match error {
        store::Error::Database(_) if error.is_denied() => Error::Join(format!(
            "the roles of the server: {error}. The role of this URL needs createrole, and rollcall_server and rollcall_reader \
             with admin option (deploy/README.md)"
        )),
        error => error.into(),
    }
}

/// A role of a server, and the URL with that and its password in the place of its own.
fn role_of(url: &str, group: &'static str, server: &str) -> Result<(NewRole, String), Error> {
    let name = format!("{group}_{server}");
    let (mut password, mut salt) = ([0; 24], [0; 16]);
    let random = SystemRandom::new();
    random.fill(&mut password).and_then(|()| random.fill(&mut salt)).map_err(|_| Error::Random)?;
    let password = hex::encode(password);
    let url = with_user(url, &name, &password).ok_or_else(|| {
        Error::Join("the URL's form is postgres://USER@HOST/DATABASE, with neither user nor password after a question mark".to_owned())
    })?;
    Ok((NewRole { name, verifier: scram::verifier(&password, &salt), group }, url))
}

fn with_user(url: &str, role: &str, password: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?'])?);
    let query = path.split_once('?').map_or("", |(_, query)| query);
    if query.split('&').any(|pair| pair.starts_with("user=") || pair.starts_with("password=")) {
        return None;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.is_empty() { "localhost" } else { host };
    Some(format!("{scheme}://{role}:{password}@{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_of_its_own_takes_the_place_of_the_owner() {
        for (url, with) in [
            ("postgres://a:b@h:5/d", Some("postgres://r:p@h:5/d")),
            ("postgres://h/d?sslmode=verify-full", Some("postgres://r:p@h/d?sslmode=verify-full")),
            ("postgresql:///d?host=/run", Some("postgresql://r:p@localhost/d?host=/run")),
            ("postgres://a:b%40c@h/d", Some("postgres://r:p@h/d")),
            ("postgres://h/d?user=a", None),
            ("postgres://h/d?sslmode=disable&password=x", None),
            ("nonsense", None),
        ] {
            assert_eq!(with_user(url, "r", "p").as_deref(), with, "{url}");
        }
    }
}
