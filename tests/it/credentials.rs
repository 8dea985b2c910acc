//! Certificate, key and CA as other tools write them: taken, or named with a command that this file runs.

use crate::stack::{Pair, Running, Stack, expect, needs, text, wait_until};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The password of everything that has one.
const PASSWORD: &str = "a password";

/// The files that the client is given; a test replaces some.
struct Given<'a> {
    stack: &'a Stack,
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl<'a> Given<'a> {
    fn usual(stack: &'a Stack) -> Self {
        let Pair { cert, key } = stack.pair("client");
        Self { stack, cert, key, ca: stack.certs.join("ca.crt") }
    }

    fn with(stack: &'a Stack, options: &[&str], file: &Path) -> Self {
        let mut given = Self::usual(stack);
        for option in options {
            match *option {
                "--cert" => given.cert = file.to_owned(),
                "--key" => given.key = file.to_owned(),
                "--ca" => given.ca = file.to_owned(),
                _ => panic!("{option}"),
            }
        }
        given
    }

    fn client(&self) -> Command {
        let mut command = self.stack.program("rollcall-client");
        command.arg("--cert").arg(&self.cert).arg("--key").arg(&self.key).arg("--ca").arg(&self.ca);
        command
    }

    #[track_caller]
    fn is_accepted(&self) {
        expect(&mut self.client(), 0, "Success! (204 No Content)");
    }

    /// The message of the client about files that it refuses.
    #[track_caller]
    fn refusal(&self) -> String {
        let output = self.client().output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }
}

/// Makes `file` in the folder of the certificates; `$1` is its name, and `$P` the password.
#[track_caller]
fn make(stack: &Stack, file: &str, script: &str) -> PathBuf {
    let mut command = stack.command("sh");
    command.current_dir(&stack.certs).env("P", PASSWORD).args(["-ec", script, "sh", file]);
    expect(&mut command, 0, "");
    stack.certs.join(file)
}

/// Runs the command that the client printed, as somebody who types the password as often as it is asked for.
#[track_caller]
fn run_printed(stack: &Stack, said: &str, made: &Path) {
    let line = said.split('`').nth(1).unwrap_or_else(|| panic!("there is no command in {said}"));
    let typed = format!("{PASSWORD}\n").repeat(3);
    // A password is read from the terminal, if openssl reads the file from a pipe.
    let mut command = if line.starts_with("tr ") {
        let mut command = stack.command("script");
        command.args(["-qec", line, "/dev/null"]);
        command
    } else {
        let mut command = stack.command("setsid");
        command.args(["-w", "sh", "-c", line]);
        command
    };
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that asks for no password reads none. script(1) waits for two seconds where its input ends.
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(typed.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && made.exists(), "{line}: {}", text(&output));
}

/// The client refuses the file, names its format, and takes it once the printed command has run.
#[track_caller]
fn is_converted(stack: &Stack, options: &[&str], file: &Path, says: &str) {
    let said = Given::with(stack, options, file).refusal();
    assert!(said.contains(says), "{said}");
    let made = PathBuf::from(format!("{}.pem", file.display()));
    run_printed(stack, &said, &made);
    assert!(said.trim_end().ends_with(&format!(", for {}", options.join(" and "))), "{said}");
    Given::with(stack, options, &made).is_accepted();
    fs::remove_file(made).unwrap();
}

/// The same text, as editors and shells write it.
fn encodings(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let utf16 = |mark: &str, unit: fn(u16) -> [u8; 2]| {
        (mark.to_owned() + &text.replace('\n', "\r\n")).encode_utf16().flat_map(unit).collect()
    };
    vec![
        ("mark", format!("\u{feff}{text}").into()),
        ("crlf", text.replace('\n', "\r\n").into()),
        ("mark-crlf", format!("\u{feff}{}", text.replace('\n', "\r\n")).into()),
        ("cr", text.replace('\n', "\r").into()),
        ("utf16le", utf16("", u16::to_le_bytes)),
        ("utf16be", utf16("", u16::to_be_bytes)),
        ("utf16le-mark", utf16("\u{feff}", u16::to_le_bytes)),
        ("utf16be-mark", utf16("\u{feff}", u16::to_be_bytes)),
    ]
}

#[test]
fn every_encoding_of_the_three_files_is_taken() {
    let stack = Stack::up();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let usual = Given::usual(&stack);
    let chain = read(&usual.cert) + &read(&usual.ca);
    let texts = [("cert", chain), ("key", read(&usual.key)), ("ca", read(&usual.ca))];
    for at in 0..encodings("").len() {
        let [cert, key, ca] = texts.each_ref().map(|(role, text)| {
            let around = format!("From: jos\u{e9}\nDear all,\n\n{text}\nBye\n");
            let (name, _) = encodings("")[at];
            [text, &around].map(|text| {
                let file = stack.certs.join(format!("{role}-{name}-{}", text.len()));
                fs::write(&file, &encodings(text)[at].1).unwrap();
                file
            })
        });
        for ((cert, key), ca) in cert.into_iter().zip(key).zip(ca) {
            Given { stack: &stack, cert, key, ca }.is_accepted();
        }
    }
    // Latin-1 is no UTF-8, and around the certificate it does no harm. A mark between two files does none either.
    let joined = [b"caf\xe9\n", texts[0].1.as_bytes(), b"\n\xef\xbb\xbf", texts[2].1.as_bytes()].concat();
    let file = stack.certs.join("joined");
    fs::write(&file, joined).unwrap();
    Given::with(&stack, &["--cert"], &file).is_accepted();
}

#[test]
fn files_that_need_no_conversion_are_taken() {
    let stack = Stack::up();
    for (options, script) in [
        (&["--cert"][..], "openssl x509 -in client.crt -trustout -addtrust clientAuth -setalias x -out $1"),
        (&["--ca"], "openssl x509 -in ca.crt -trustout -addtrust serverAuth -out $1"),
        (&["--cert"], "sed 's/ CERTIFICATE/ X509 CERTIFICATE/' client.crt >$1"),
        (&["--cert"], "openssl x509 -in client.crt -outform DER -out $1"),
        (&["--ca"], "openssl x509 -in ca.crt -outform DER -out $1"),
        (
            &["--cert"],
            "{ openssl x509 -in ca.crt -outform DER; openssl x509 -in client.crt -outform DER; } >$1",
        ),
        (&["--key"], "openssl pkcs8 -topk8 -nocrypt -in client.key -outform DER -out $1"),
        (&["--key"], "openssl ec -in client.key -outform DER -out $1"),
        (&["--key"], "{ openssl ecparam -name prime256v1; openssl ec -in client.key; } >$1"),
        (&["--key"], "openssl ec -in client.key | sed 's/ EC / /' >$1"),
        // The certificate of the CA comes first, or there are several of strangers.
        (&["--cert"], "cat ca.crt client.crt >$1"),
        (&["--cert"], "cat server.crt ca.crt client.crt bad_client.crt >$1"),
        (&["--cert", "--key"], "cat client.key client.crt >$1"),
        (&["--cert", "--key"], "cat ca.crt client.crt client.key >$1"),
        (&["--cert", "--key", "--ca"], "cat client.key client.crt ca.crt >$1"),
    ] {
        let file = make(&stack, "taken", script);
        Given::with(&stack, options, &file).is_accepted();
    }
    let many = fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let file = stack.certs.join("many");
    fs::write(&file, [many, fs::read(stack.certs.join("ca.crt")).unwrap()].concat()).unwrap();
    Given::with(&stack, &["--ca"], &file).is_accepted();

    // PKCS #1, as DER.
    let request = "openssl req -new -key rsa.key -subj /CN=valid_user@qt-test.com";
    let sign = "openssl x509 -req -CA ca.crt -CAkey ca.key -extfile v3 -days 1";
    let cert = make(
        &stack,
        "rsa.crt",
        &format!(
            "openssl genrsa -out rsa.key 2048; echo basicConstraints=CA:false >v3; {request} | {sign} -out $1"
        ),
    );
    let key = make(&stack, "rsa.der", "openssl rsa -in rsa.key -traditional -outform DER -out $1");
    Given { cert, key, ..Given::usual(&stack) }.is_accepted();
}

#[test]
fn each_printed_command_makes_a_file_that_is_taken() {
    let stack = Stack::up();
    let encrypted = "it holds an encrypted private key; `openssl ";
    let pkcs12 = "it holds a PKCS #12 keystore; `openssl pkcs12 -in ";
    let legacy = "it holds a PKCS #12 keystore; `openssl pkcs12 -legacy -in ";
    let pkcs7 = "it holds a PKCS #7 bundle; `openssl pkcs7 -in ";
    let export = "openssl pkcs12 -export -inkey client.key -in client.crt -certfile ca.crt -passout env:P";
    let pkcs8 = "openssl pkcs8 -topk8 -in client.key -passout env:P";
    let sec1 = "openssl ec -aes256 -in client.key -passout env:P";
    let pair = &["--cert", "--key"][..];
    for (options, says, script) in [
        (&["--key"][..], encrypted, &format!("{pkcs8} -out \"$1\"")[..]),
        (&["--key"], encrypted, &format!("{sec1} -out \"$1\"")),
        (&["--key"], encrypted, &format!("{pkcs8} -outform DER -out \"$1\"")),
        (&["--key"], encrypted, &format!("{{ cat client.crt; {sec1}; }} >\"$1\"")),
        (pair, pkcs12, &format!("{export} -out \"$1\"")),
        (pair, pkcs12, &format!("{export} -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -out \"$1\"")),
        (pair, legacy, &format!("{export} -legacy -out \"$1\"")),
        (&["--ca"], pkcs12, &format!("{export} -out \"$1\"")),
        (&["--ca"], legacy, "openssl pkcs12 -export -legacy -nokeys -in ca.crt -passout env:P -out \"$1\""),
        (&["--cert"], pkcs7, "openssl crl2pkcs7 -nocrl -certfile ca.crt -certfile client.crt -out \"$1\""),
        (&["--ca"], pkcs7, "openssl crl2pkcs7 -nocrl -certfile ca.crt | sed 's/PKCS7/CERTIFICATE/' >\"$1\""),
        (
            &["--ca"],
            "it holds a PKCS #7 bundle; `openssl pkcs7 -inform DER -in ",
            "openssl crl2pkcs7 -nocrl -certfile ca.crt -outform DER -out \"$1\"",
        ),
    ] {
        for name in ["plain", "it's a file"] {
            let file = make(&stack, name, script);
            is_converted(&stack, options, &file, says);
        }
    }
    // As certutil(1) of Windows writes a PFX file that is to be mailed.
    let armour = |option: &str| {
        format!(
            "{{ echo -----BEGIN CERTIFICATE-----; {export} {option} | openssl base64;
                echo -----END CERTIFICATE-----; }} >\"$1\""
        )
    };
    for option in ["", "-legacy"] {
        let file = make(&stack, "mailed", &armour(option));
        is_converted(&stack, pair, &file, "it holds a PKCS #12 keystore; `tr ");
    }
    // openssl reads a key that Windows wrote as UTF-16 from a pipe.
    let text = |script: String| fs::read_to_string(make(&stack, "text", &script)).unwrap();
    let keys = [pkcs8, sec1].map(|script| text(format!("{script} -out $1")));
    for (name, bytes) in keys.iter().flat_map(|key| encodings(key)) {
        let file = stack.certs.join(name);
        fs::write(&file, bytes).unwrap();
        is_converted(&stack, &["--key"], &file, "it holds an encrypted private key; `");
    }
    // Java leaves out the public half of a key. Other tools spell its curve out.
    let half = "openssl ec -in client.key -no_public";
    for (says, script) in [
        ("`openssl ec -in ", format!("{half} -out $1")),
        ("`openssl ec -inform DER -in ", format!("{half} -outform DER -out $1")),
        ("`openssl ec -in ", format!("{half} | openssl pkcs8 -topk8 -nocrypt -out $1")),
        ("`openssl ec -in ", "openssl ec -in client.key -param_enc explicit -out $1".to_owned()),
    ] {
        let file = make(&stack, "half", &script);
        is_converted(
            &stack,
            &["--key"],
            &file,
            &format!("if it lacks only its public half or the name of its curve, {says}"),
        );
    }
}

#[test]
fn a_key_of_openssh_is_converted() {
    let Some(()) = needs("ssh-keygen") else { return };
    let stack = Stack::up();
    let says = "it holds an OpenSSH private key; `(umask 077; tr ";
    for (kind, password) in [("ecdsa", ""), ("rsa", ""), ("ecdsa", PASSWORD)] {
        let make_key = format!("rm -f \"$1\"; ssh-keygen -q -t {kind} -N '{password}' -f \"$1\"");
        let file = make(&stack, "its ssh key", &make_key);
        // The certificate is of that key, of which openssl is given a copy.
        let copy = format!("cp 'its ssh key' $1; ssh-keygen -q -p -P '{password}' -N '' -m PKCS8 -f $1");
        let key = make(&stack, "copy", &copy);
        let sign = "openssl req -new -key copy -subj /CN=valid_user@qt-test.com >copy.csr
            echo basicConstraints=CA:false >v3
            openssl x509 -req -in copy.csr -CA ca.crt -CAkey ca.key -extfile v3 -days 1 -out $1";
        let cert = make(&stack, "copy.crt", sign);
        Given { cert: cert.clone(), key, ..Given::usual(&stack) }.is_accepted();
        for (name, bytes) in encodings(&fs::read_to_string(&file).unwrap()) {
            let file = stack.certs.join(name);
            fs::write(&file, bytes).unwrap();
            let said = Given { cert: cert.clone(), ..Given::with(&stack, &["--key"], &file) }.refusal();
            assert!(said.contains(says), "{said}");
            let made = PathBuf::from(format!("{}.pem", file.display()));
            run_printed(&stack, &said, &made);
            Given { cert: cert.clone(), key: made.clone(), ..Given::usual(&stack) }.is_accepted();
            fs::remove_file(made).unwrap();
        }
    }
    let file = make(&stack, "ed25519", "ssh-keygen -q -t ed25519 -N '' -f $1");
    let said = Given::with(&stack, &["--key"], &file).refusal();
    assert!(said.contains("it holds an OpenSSH private key; ssh-keygen converts no Ed25519 key"), "{said}");
}

#[test]
fn a_keystore_of_java_is_converted_in_two_steps() {
    let Some(()) = needs("keytool") else { return };
    let stack = Stack::up();
    let export =
        "openssl pkcs12 -export -inkey client.key -in client.crt -certfile ca.crt -passout env:P -out p12";
    let import = "keytool -importkeystore -srckeystore p12 -srcstorepass \"$P\" -destkeystore \"$1\" -deststorepass \"$P\"";
    let trust = "keytool -importcert -noprompt -file ca.crt -alias ca -keystore \"$1\" -storepass \"$P\"";
    for kind in ["JKS", "JCEKS"] {
        for (options, script) in [
            (&["--cert", "--key"][..], format!("{export}; {import} -deststoretype {kind}")),
            (&["--ca"], format!("{trust} -storetype {kind}")),
        ] {
            let file = make(&stack, "a keystore", &format!("rm -f \"$1\" \"$1.p12\"; {script}"));
            let said = Given::with(&stack, options, &file).refusal();
            assert!(said.contains("it holds a Java keystore; `keytool "), "{said}");
            assert!(said.trim_end().ends_with(&format!(", for {}", options[0])), "{said}");
            let made = stack.certs.join("a keystore.p12");
            run_printed(&stack, &said, &made);
            is_converted(&stack, options, &made, "it holds a PKCS #12 keystore; `openssl pkcs12 ");
        }
    }
}

#[test]
fn files_that_no_command_mends_are_named() {
    let stack = Stack::up();
    let [cert, key] = ["client.crt", "client.key"].map(|name| stack.certs.join(name));
    let damaged = "FILE is damaged: its -----BEGIN CERTIFICATE----- has no -----END CERTIFICATE-----\n";
    let no_cert = "there is no certificate in FILE: it holds a certificate request; the administrator of rollcall makes";
    let no_key =
        "there is no private key in FILE: it holds a public key; the private key that was made with it";
    for (options, says, script) in [
        (&["--cert"][..], no_cert, "openssl req -new -key client.key -subj /CN=x -out $1"),
        (
            &["--cert"],
            "it holds a certificate request; the administrator",
            "openssl req -new -key client.key -subj /CN=x -outform DER -out $1",
        ),
        (&["--key"], no_key, "openssl pkey -in client.key -pubout -out $1"),
        (
            &["--key"],
            "it holds a public key; the private",
            "openssl pkey -in client.key -pubout -outform DER -out $1",
        ),
        (&["--ca"], "it holds a private key\n", "cp ca.key $1"),
        (
            &["--ca"],
            "it holds a list of revoked certificates (CRL)\n",
            "openssl crl -in \"$ROLLCALL_STATE/nginx/crl.pem\" -outform DER -out $1",
        ),
        (&["--key"], "it holds a certificate\n", "openssl x509 -in ca.crt -outform DER -out $1"),
        (&["--cert"], "FILE is empty\n", "printf '\\357\\273\\277' >$1"),
        (&["--cert"], "FILE is empty\n", "printf '\\377\\376' >$1"),
        (
            &["--cert"],
            "it holds neither PEM (RFC 7468) nor DER\n",
            "openssl x509 -in client.crt -outform DER | head -c 99 >$1",
        ),
        (&["--cert"], damaged, "head -n 3 client.crt >$1"),
        (&["--cert"], damaged, "{ head -n 3 client.crt; cat client.crt; } >$1"),
        (&["--ca"], "cannot read FILE: it has more than 4194304 bytes\n", "ln -sf /dev/zero $1"),
    ] {
        let file = make(&stack, "refused", &format!("rm -f $1; {script}"));
        let said = Given::with(&stack, options, &file).refusal();
        let says = says.replace("FILE", file.to_str().unwrap());
        assert!(said.contains(&says), "{said:?} does not contain {says:?}");
    }
    let said = Given { cert: key.clone(), key: cert.clone(), ..Given::usual(&stack) }.refusal();
    let options = format!("--cert {} --key {}\n", cert.display(), key.display());
    assert!(said.ends_with(&options), "{said}");
    // The options that it says are the right ones.
    let mut command = stack.program("rollcall-client");
    command.args(options.split_whitespace()).arg("--ca").arg(stack.certs.join("ca.crt"));
    expect(&mut command, 0, "Success!");
}

/// A client that runs takes a replacement in another encoding, and names one that it cannot take.
#[test]
fn files_of_other_tools_replace_those_in_use() {
    let stack = Stack::up();
    let given = Given {
        cert: make(&stack, "its.crt", "cp client.crt $1"),
        key: make(&stack, "its.key", "cp client.key $1"),
        ..Given::usual(&stack)
    };
    let mut command = given.client();
    command.args(["--every", "100ms"]);
    let client = Running::start(&stack, command);
    let beats = || client.out().matches("Success!").count();
    wait_until("it beats", || beats() > 0);
    make(&stack, "its.key", "openssl pkcs8 -topk8 -in client.key -passout env:P -out $1.new; mv $1.new $1");
    wait_until("it names the encrypted key", || {
        client.err().contains("it holds an encrypted private key; `openssl pkey -in ")
    });
    let before = beats();
    wait_until("it beats with the old one", || beats() > before + 1);
    assert!(client.err().contains(", for --key; goes on with the one it has"), "{}", client.err());
    let text = fs::read_to_string(stack.certs.join("client.key")).unwrap();
    let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(stack.certs.join("new"), utf16).unwrap();
    make(&stack, "its.key", "mv new $1");
    wait_until("it takes the new file", || client.err().contains("goes on with the new certificate"));
    let before = beats();
    wait_until("it beats with it", || beats() > before + 1);
    assert_eq!(client.err().lines().count(), 2, "{}", client.err());
}
