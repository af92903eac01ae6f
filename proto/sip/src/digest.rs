//! Answers to digest challenges (RFC 3261 section 22, RFC 8760).

use rsipstack::{
    dialog::authenticate::compute_digest,
    sip::headers::auth::{Algorithm, AuthQop},
};
use twinbox_ids::Pii;

use crate::{Request, Response, addr};

/// What a trunk's challenges are answered with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Pii<String>,
}

/// Adds the answer to a `401` or `407` to the request. `false` when the challenge is none that we know, or when
/// the request already carried an answer (then the password is wrong; trying again would loop for ever).
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
    // The strongest first: SHA-256 before MD5 (RFC 8760 section 2.4).
    let Some(challenge) = known.min_by_key(|c| u8::from(c.algorithm != Algorithm::Sha256)) else { return false };
    let Ok(method) = request.method.as_str().parse() else { return false };
    let qop = challenge.qop.then(|| AuthQop::Auth { cnonce: cnonce.to_owned(), nc: 1 });
    let response = compute_digest(
        &credentials.username,
        credentials.password.reveal(),
        &challenge.realm,
        &challenge.nonce,
        &method,
        &request.uri,
        challenge.algorithm,
        qop.as_ref(),
    );
    let mut value = format!(
        "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{}\", response=\"{response}\", algorithm={}",
        quote(&credentials.username),
        quote(&challenge.realm),
        quote(&challenge.nonce),
        request.uri,
        if challenge.algorithm == Algorithm::Sha256 { "SHA-256" } else { "MD5" },
    );
    if challenge.qop {
        value += &format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\"");
    }
    if let Some(opaque) = challenge.opaque {
        value += &format!(", opaque=\"{}\"", quote(&opaque));
    }
    request.headers.set(answers, value);
    true
}

struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    qop: bool,
}

impl Challenge {
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
        let algorithm = match param("algorithm") {
            None => Algorithm::Md5,
            Some(a) if a.eq_ignore_ascii_case("MD5") => Algorithm::Md5,
            Some(a) if a.eq_ignore_ascii_case("SHA-256") => Algorithm::Sha256,
            Some(_) => return None,
        };
        let qop = match param("qop") {
            None => false,
            Some(q) if q.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")) => true,
            Some(_) => return None,
        };
        Some(Self { realm: param("realm")?, nonce: param("nonce")?, opaque: param("opaque"), algorithm, qop })
    }
}

fn quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
