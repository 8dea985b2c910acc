//! Certificates and keys of clients.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Stack, free_port};
use crate::program::{expect, text};

pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate for clients, as openssl-req(1) reads it.
const CLIENT: &str = "[request]
distinguished_name = empty
prompt = no
[empty]
[client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
";

impl Stack {
    /// A client certificate with this CN that no row knows; `dates` may hold ROLLCALL_SIGN_FROM and ROLLCALL_SIGN_UNTIL.
    #[track_caller]
    pub fn certificate(&self, cn: &str, dates: &[(&str, &str)]) -> Pair {
        let pair = self.pair(&format!("made-{}", free_port()));
        let request = self.request(&pair.key);
        let mut sign = self.tool("certs/ca");
        sign.arg("sign").envs(dates.iter().copied()).env("ROLLCALL_SIGN_CN", cn);
        if cn.contains('@') {
            sign.env("ROLLCALL_SIGN_SAN", format!("email:{cn}"));
        }
        let output = sign.stdin(File::open(request).unwrap()).output().unwrap();
        assert!(output.status.success(), "certs/ca: {}", text(&output));
        fs::write(&pair.cert, output.stdout).unwrap();
        pair
    }

    /// A request (PKCS #10) of a new key that is put into this file, and names nobody.
    #[track_caller]
    pub fn request(&self, key: &Path) -> PathBuf {
        let request = key.with_extension("csr");
        let mut openssl = self.command("openssl");
        openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-subj", "/", "-keyout"]).arg(key).arg("-out").arg(&request);
        expect(&mut openssl, 0, "");
        request
    }

    /// A certificate with any subject that openssl(1) can express, signed by the CA in `folder`.
    #[track_caller]
    pub fn certificate_of(&self, folder: &Path, subject: &str) -> Pair {
        let [ca, key] = ["ca.crt", "ca.key"].map(|file| folder.join(file).display().to_string());
        let config = self.state.join("client.cnf");
        fs::write(&config, CLIENT).unwrap();
        let extensions =
            ["-config", config.to_str().unwrap(), "-section", "request", "-extensions", "client"];
        self.self_signed(subject, &[&extensions[..], &["-CA", &ca, "-CAkey", &key]].concat())
    }

    /// A certificate that is its own authority.
    #[track_caller]
    pub fn self_signed(&self, subject: &str, options: &[&str]) -> Pair {
        let pair = self.pair(&format!("made-{}", free_port()));
        let mut command = self.command("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.args(["-days", "1", "-utf8", "-subj", subject, "-keyout"]).arg(&pair.key);
        expect(command.arg("-out").arg(&pair.cert).args(options), 0, "");
        pair
    }

    pub fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.certs.join(format!("{name}.crt")), key: self.certs.join(format!("{name}.key")) }
    }

    /// Enrols the email and makes a certificate for it.
    #[track_caller]
    pub fn member(&self, email: &str) -> Pair {
        let output = self.admin(&["user", "add", email]);
        assert!(output.status.success(), "{}", text(&output));
        self.certificate(email, &[])
    }
}
