//! The commands that make files of other formats into PEM that the client reads. The tests run each of them.

use std::fmt;
use std::path::Path;

use super::credentials::Role;
use crate::keyfile::{Form, Item, ItemKind};

/// A command for the shell, the file that it makes, and the options that take the file.
#[derive(Debug)]
pub struct Conversion {
    command: String,
    made: String,
    options: &'static str,
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, made, options } = self;
        write!(f, "`{command}` makes {made}, for {options}")
    }
}

/// How the item becomes something that `role` takes, if it can.
pub fn to_pem(item: &Item, role: Role, path: &Path) -> Option<Conversion> {
    let (file, made) = (quoted(path, ""), quoted(path, ".pem"));
    let command = match (item.kind, role) {
        (ItemKind::EncryptedKey, Role::Key) => {
            // pkey of OpenSSL 1.1 reads no encrypted DER.
            let command = if item.form == Form::Binary { "pkcs8" } else { "pkey" };
            format!("{} -out {made}", openssl(command, item, &file))
        }
        (ItemKind::OpenSshKey, Role::Key) if !is_ed25519(item) => {
            let copy = plain(item, &file);
            format!("(umask 077; {copy} >{made}) && ssh-keygen -p -N '' -m PKCS8 -f {made}")
        }
        (ItemKind::Pkcs7, Role::Cert | Role::Ca) => {
            format!("{} -print_certs -out {made}", openssl("pkcs7", item, &file))
        }
        (ItemKind::Pkcs12, _) => {
            let legacy = if is_legacy(item) { " -legacy" } else { "" };
            let only = if role == Role::Ca { "-cacerts -nokeys" } else { "-nodes" };
            match item.form {
                Form::Binary => format!("openssl pkcs12{legacy} -in {file} {only} -out {made}"),
                _ => format!(
                    "{} | grep -v -e ----- | openssl base64 -d | openssl pkcs12{legacy} {only} -out {made}",
                    plain(item, &file)
                ),
            }
        }
        // The client names the second step when it is given the PKCS #12 file, which tells whether openssl needs
        // -legacy for it.
        (ItemKind::JavaKeystore, _) => {
            let made = quoted(path, ".p12");
            let command = format!(
                "keytool -importkeystore -srckeystore {file} -destkeystore {made} -deststoretype PKCS12"
            );
            return Some(Conversion { command, made, options: role.option() });
        }
        _ => return None,
    };
    let options = match (item.kind, role) {
        (ItemKind::Pkcs12, Role::Cert | Role::Key) => "--cert and --key",
        _ => role.option(),
    };
    Some(Conversion { command, made, options })
}

/// rustls insists on the public half of an ECDSA key, which Java leaves out, and on the name of its curve.
/// openssl adds both.
pub fn completed(item: &Item, path: &Path) -> Option<Conversion> {
    // The object identifiers of ANSI X9.62, and secp384r1.
    let is_ecdsa = holds(&item.bytes, b"\x2a\x86\x48\xce\x3d") || holds(&item.bytes, b"\x2b\x81\x04\x00\x22");
    let made = quoted(path, ".pem");
    let openssl = openssl("ec", item, &quoted(path, ""));
    let command = format!("{openssl} -param_enc named_curve -out {made}");
    is_ecdsa.then_some(Conversion { command, made, options: Role::Key.option() })
}

/// ssh-keygen writes these in its own format only.
fn is_ed25519(item: &Item) -> bool {
    holds(&item.bytes, b"ssh-ed25519")
}

/// RC4 and RC2 of PKCS #12 (RFC 7292, appendix C), which OpenSSL 3 knows on request only.
fn is_legacy(item: &Item) -> bool {
    const PBE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01";
    [1, 2, 5, 6].iter().any(|algorithm| holds(&item.bytes, &[PBE, &[*algorithm]].concat()))
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// openssl reads the file itself, or from a pipe where it would not find a line that begins with BEGIN.
fn openssl(command: &str, item: &Item, file: &str) -> String {
    match item.form {
        Form::Binary => format!("openssl {command} -inform DER -in {file}"),
        Form::Pem => format!("openssl {command} -in {file}"),
        Form::Encoded | Form::LoneCr => format!("{} | openssl {command}", plain(item, file)),
    }
}

/// PEM without the bytes that UTF-16 and byte order marks add to ASCII.
fn plain(item: &Item, file: &str) -> String {
    match item.form {
        Form::LoneCr => format!(r"tr '\r' '\n' <{file} | tr -d '\000\273\277\357\376\377'"),
        _ => format!(r"tr -d '\000\r\273\277\357\376\377' <{file}"),
    }
}

/// One word for the shell, and no option for the command.
fn quoted(path: &Path, suffix: &str) -> String {
    let text = path.display().to_string() + suffix;
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%=:,".contains(&byte)) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_word_of_the_shell() {
        for name in ["a.p12", "-a", "a b", "it's", "$(id)`id`", "a\nb", "\u{e9}", "~a", "*"] {
            let script = format!("printf '%s\\0' {}", quoted(Path::new(name), ".pem"));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let word = String::from_utf8(output.stdout).unwrap();
            assert_eq!(word.trim_start_matches("./"), format!("{name}.pem\0"), "{script}");
        }
        assert_eq!(quoted(Path::new("certs/client.p12"), ".pem"), "certs/client.p12.pem");
        assert_eq!(quoted(Path::new("-in"), ""), "./-in");
    }
}
