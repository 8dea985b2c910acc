//! The grammar of an email, and a CN as nginx hands it on (RFC 4514).

use rollcall::http::identity::Forwarded;
use rollcall::protocol::pseudonym::Key;
use rollcall::protocol::status::Email;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let email = Email::new(text);
    match &email {
        Ok(email) => {
            assert_eq!(email.as_str(), text.to_ascii_lowercase());
            assert_eq!(Email::new(email.as_str()).as_ref(), Ok(email));
            let (local, domain) = email.as_str().split_once('@').unwrap();
            assert!((1..=64).contains(&local.len()) && !domain.contains('@') && text.len() <= Email::MAX_LEN);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),:;<>[\\]".contains(&byte)));
            let pseudonym = Key::new(&[7; 32]).pseudonym(email);
            assert!(pseudonym != *email && Email::new(pseudonym.as_str()).is_ok());
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() < 4000 && !said.contains(char::is_control), "{said:?}");
        }
    }
    // As nginx writes this CN, it is this email and no other.
    if !text.is_empty() {
        let (mut all, mut few) = (String::new(), String::new());
        for (at, byte) in text.bytes().enumerate() {
            all += &format!("\\{byte:02X}");
            match byte {
                b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => few.extend(['\\', byte.into()]),
                b'#' | b' ' if at == 0 => few.extend(['\\', byte.into()]),
                0x20..=0x7e => few.push(byte.into()),
                _ => few += &format!("\\{byte:02X}"),
            }
        }
        for escaped in [all, few] {
            assert_eq!(common_name(&escaped), email.clone().ok(), "{escaped}");
        }
    }
    // As it stands it may be such a CN by itself.
    common_name(text);
}

fn common_name(value: &str) -> Option<Email> {
    let mut forwarded = Forwarded::default();
    forwarded.subject_cn.push(value);
    forwarded.common_name().map_err(|refusal| assert!(!refusal.to_string().contains('\n'))).ok()
}
