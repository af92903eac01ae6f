//! Answers to digest challenges: MD5 and SHA-256, their `-sess` forms, with `qop=auth` or without (RFC 2617, RFC 7616,
//! RFC 8760).

use md_5::Md5;
use sha2::{Digest, Sha256};
use twinbox_ids::Pii;

use crate::{Request, Response, addr};

/// Credentials for a trunk's challenges.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Pii<String>,
}

/// Adds the answer to a `401` or `407` to the request. Returns `false` if the challenge is not supported, or if the
/// request already carried an answer: the password is then wrong, and a retry would loop forever.
pub fn answer(request: &mut Request, challenge: &Response, credentials: &Credentials, cnonce: &str) -> bool {
    let (asks, answers) = match challenge.code {
        401 => ("WWW-Authenticate", "Authorization"),
        407 => ("Proxy-Authenticate", "Proxy-Authorization"),
        _ => return false,
    };
    if request.headers.get(answers).is_some() {
        return false;
    }
    let known = challenge.headers.all(asks).filter_map(Challenge::parse);
    let Some(challenge) = known.max_by_key(|c| c.hash) else { return false };
    let response = challenge.response(request, credentials, cnonce);
    let mut value = format!(
        "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{}\", response=\"{response}\", algorithm={}{}",
        quote(&credentials.username),
        quote(&challenge.realm),
        quote(&challenge.nonce),
        request.uri,
        challenge.hash.name(),
        if challenge.session { "-sess" } else { "" },
    );
    if challenge.qop {
        value += &format!(", qop=auth, nc={FIRST}, cnonce=\"{cnonce}\"");
    }
    if let Some(opaque) = challenge.opaque {
        value += &format!(", opaque=\"{}\"", quote(&opaque));
    }
    request.headers.set(answers, value);
    true
}

/// Nonce count: each nonce is used once.
const FIRST: &str = "00000001";

/// A hash function, in ascending order of preference (RFC 8760 section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

impl Hash {
    const ALL: [Self; 2] = [Self::Md5, Self::Sha256];

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// The hash in hexadecimal digits.
    fn of(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    hash: Hash,
    /// The algorithm is a `-sess` variant.
    session: bool,
    qop: bool,
}

impl Challenge {
    /// Parses a challenge that can be answered: a supported algorithm, and `auth` among the `qop` values, if any.
    fn parse(line: &str) -> Option<Self> {
        let (scheme, rest) = line.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let param = |name: &str| {
            addr::split_list(rest).find_map(|p| {
                let (key, value) = p.split_once('=')?;
                key.trim().eq_ignore_ascii_case(name).then(|| addr::unquote(value.trim()).into_owned())
            })
        };
        let algorithm = param("algorithm").unwrap_or_else(|| "MD5".to_owned()).to_ascii_uppercase();
        let (name, session) = match algorithm.strip_suffix("-SESS") {
            Some(name) => (name, true),
            None => (algorithm.as_str(), false),
        };
        let hash = Hash::ALL.into_iter().find(|hash| hash.name() == name)?;
        let qop = match param("qop") {
            // Without qop no cnonce is sent, but the session key contains one.
            None if session => return None,
            None => false,
            Some(q) if q.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")) => true,
            Some(_) => return None,
        };
        Some(Self { realm: param("realm")?, nonce: param("nonce")?, opaque: param("opaque"), hash, session, qop })
    }

    /// The `response` parameter (RFC 7616 section 3.4.1; without qop RFC 2617 section 3.2.2.1).
    fn response(&self, request: &Request, credentials: &Credentials, cnonce: &str) -> String {
        let Self { realm, nonce, hash, .. } = self;
        let mut key = hash.of(&format!("{}:{realm}:{}", credentials.username, credentials.password.reveal()));
        if self.session {
            key = hash.of(&format!("{key}:{nonce}:{cnonce}"));
        }
        let what = hash.of(&format!("{}:{}", request.method, request.uri));
        hash.of(&match self.qop {
            true => format!("{key}:{nonce}:{FIRST}:{cnonce}:auth:{what}"),
            false => format!("{key}:{nonce}:{what}"),
        })
    }
}

fn quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
