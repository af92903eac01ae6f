//! The joining member's side: `cluster join` on its machine.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use twinbox_config::SEAL_SECRET;
use twinbox_ids::{ClusterId, NodeName, check_member_address};
use twinbox_pki::{
    CertificateAuthority, Issued, JoinObstacle, JoinToken, MemberKey, MemberKind as CertificateKind, NodeIdentity,
    PkiError, Seal, TokenError, Unverified,
};
use twinbox_roles::MemberKind;
use twinbox_wire::join::{Answer, Ask, Welcome, answer::Result as JoinResult};

use super::{receive, send};
use crate::{
    SipAddressing, folders,
    init::{self, FormedMember, InitSpec},
    release,
};

/// Timeout for a node's answer: the node needs the cluster's agreement first.
const PATIENCE: Duration = Duration::from_secs(25);
/// Marker file of an attempt with unknown outcome, so that the same member may retry.
const MARK: &str = "joining";

/// Parameters of a join.
pub struct JoinSpec {
    /// Token, as `cluster token` printed it.
    pub token: String,
    /// Parent of the member's folder: `dir/name`.
    pub dir: PathBuf,
    /// Requested name.
    pub name: NodeName,
    /// `HOST:PORT` for the other members.
    pub address: String,
    /// Whether it joins as a witness; otherwise as a node.
    pub witness: bool,
    /// Addresses at which calls reach it.
    pub sip: SipAddressing,
}

/// Result of a join.
#[derive(Debug)]
pub struct Joined {
    /// Id of the cluster.
    pub id: ClusterId,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Node that admitted the member.
    pub by: NodeName,
    /// Folder of the new member.
    pub member: FormedMember,
    /// All members, including the new one.
    pub everyone: Vec<NodeName>,
}

/// Reason why the join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The text is not a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is for the other kind of member.
    #[error("the token is for a {0}: {1}")]
    Kind(MemberKind, &'static str),
    /// An address is not valid, or conflicts with the address of a member.
    #[error("not joined: {0}")]
    Address(String),
    /// The target folder is not empty.
    #[error("{0} is not empty: name another folder, or remove it if the member in it is not needed")]
    NotEmpty(PathBuf),
    /// The cluster refused.
    #[error("not joined: {0}")]
    Refused(String),
    /// The cluster cannot decide at present.
    #[error("not joined: {0}; give the same command again later")]
    Later(String),
    /// No member answered. One line per member.
    #[error(
        "not joined, nothing was changed: no member of the token could be asked{0}\nGive the same command again later"
    )]
    Nobody(String),
    /// The outcome is unknown.
    #[error(
        "it is not known whether this was done: the connection was lost after the token had been shown{0}\nGive the same \
         command again: it goes on where it was, also if the token has been consumed for it"
    )]
    Unknown(String),
    /// The answer is not valid.
    #[error("{0} sent an invalid answer: {1}")]
    Answer(NodeName, String),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
    /// Keys or certificates could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Result of the request to one member.
enum JoinAttempt {
    Welcome(Box<Welcome>),
    Refused {
        reason: String,
        ask_another: bool,
    },
    /// Nothing had been sent.
    NotReached(String),
    /// The secret had been sent, and no answer arrived.
    Lost(String),
}

/// Joins: tries the members of the token one after another, and writes the new member's folder. A refused join
/// leaves nothing behind.
pub async fn join(spec: &JoinSpec) -> Result<Joined, JoinError> {
    let token: JoinToken = spec.token.parse()?;
    match (token.kind(), spec.witness) {
        (CertificateKind::Witness, false) => return Err(JoinError::Kind(MemberKind::Witness, "add --witness")),
        (CertificateKind::Node, true) => return Err(JoinError::Kind(MemberKind::Node, "leave --witness out")),
        _ => {}
    }
    check_member_address(&spec.address).map_err(|error| JoinError::Address(error.to_string()))?;
    spec.sip.check().map_err(JoinError::Address)?;
    let own = if spec.witness { MemberKind::Witness } else { MemberKind::Node };
    // A token names nodes only.
    let nodes = token.members.iter().map(|(name, address)| (name, MemberKind::Node, address.as_str()));
    init::beside_supervisors((&spec.name, own, &spec.address), nodes.filter(|(name, ..)| **name != spec.name))
        .map_err(JoinError::Address)?;
    let dir = std::path::absolute(&spec.dir).map_err(io_error(&spec.dir))?;
    let home = dir.join(spec.name.as_str());
    let formed = FormedMember {
        name: spec.name.clone(),
        kind: if spec.witness { MemberKind::Witness } else { MemberKind::Node },
        config: home.join(init::CONFIG),
        data_dir: home.join("data"),
        tls_dir: home.join("tls"),
        address: spec.address.clone(),
    };
    let goes_on = begin(&home, &token)?;
    let key = MemberKey::load_or_make(&formed.tls_dir)?;
    match ask_all(spec, &token, &key).await {
        Ok((by, welcome)) => finish(spec, &token, &key, formed, by, *welcome),
        // A retry continues from here, with the key that the token may have been consumed for, until a node decides.
        Err(undecided @ (JoinError::Unknown(_) | JoinError::Later(_))) => Err(undecided),
        Err(nobody @ JoinError::Nobody(_)) if goes_on => Err(nobody),
        Err(error) => {
            clear(&home);
            Err(error)
        }
    }
}

/// The folder must be new, empty, or left by an attempt with the same token: true.
fn begin(home: &Path, token: &JoinToken) -> Result<bool, JoinError> {
    let mark = home.join(MARK);
    let ours = blake3::hash(&token.hash()).to_hex();
    if fs::read_to_string(&mark).is_ok_and(|left| left.trim() == ours.as_str()) {
        return Ok(true);
    }
    if fs::read_dir(home).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(JoinError::NotEmpty(home.to_owned()));
    }
    folders::make_home(home).map_err(io_error(home))?;
    twinbox_pki::write_private(&mark, format!("{ours}\n").as_bytes()).map_err(io_error(&mark))?;
    Ok(false)
}

/// Removes the files of an attempt; the folder itself may be a volume and stays.
fn clear(home: &Path) {
    // Files that cannot be removed do no harm: the marker names their attempt.
    let _ = fs::remove_dir_all(home.join("tls"));
    let _ = fs::remove_file(home.join(MARK));
    let _ = fs::remove_dir(home);
}

async fn ask_all(
    spec: &JoinSpec,
    token: &JoinToken,
    key: &MemberKey,
) -> Result<(NodeName, Box<Welcome>), JoinError> {
    let (mut said, mut refused, mut lost) = (String::new(), None, false);
    for (member, address) in &token.members {
        let what = match ask(spec, token, key, member, address).await {
            JoinAttempt::Welcome(welcome) => return Ok((member.clone(), welcome)),
            JoinAttempt::Refused { reason, ask_another: false } => return Err(JoinError::Refused(reason)),
            JoinAttempt::Refused { reason, ask_another: true } => {
                refused = Some(reason.clone());
                reason
            }
            JoinAttempt::NotReached(reason) => reason,
            JoinAttempt::Lost(reason) => {
                lost = true;
                reason
            }
        };
        // Writing to a String cannot fail.
        let _ = write!(said, "\n  {member} at {address}: {what}");
    }
    Err(match refused {
        _ if lost => JoinError::Unknown(said),
        Some(reason) => JoinError::Later(reason),
        None => JoinError::Nobody(said),
    })
}

async fn ask(spec: &JoinSpec, token: &JoinToken, key: &MemberKey, member: &NodeName, address: &str) -> JoinAttempt {
    let mut stream = match twinbox_pki::connect(token, member, address).await {
        Ok(stream) => stream,
        Err(error) => return JoinAttempt::NotReached(unreached(&error)),
    };
    let speaks = release::speaks();
    let ask = Ask {
        cluster: token.cluster.to_bytes().to_vec().into(),
        secret: token.secret().to_vec().into(),
        name: spec.name.to_string(),
        witness: spec.witness,
        address: spec.address.clone(),
        public_key: key.public_key().into(),
        speaks_min: speaks.min,
        speaks_max: speaks.max,
    };
    let exchange = async {
        send(&mut stream, &ask).await?;
        receive::<Answer>(&mut stream).await
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(Answer { result: Some(JoinResult::Welcome(welcome)) })) => JoinAttempt::Welcome(Box::new(welcome)),
        Ok(Ok(Answer { result: Some(JoinResult::Refused(refused)) })) => {
            JoinAttempt::Refused { reason: refused.reason, ask_another: refused.ask_another }
        }
        Ok(Ok(Answer { result: None })) => JoinAttempt::Lost("its answer is of a later release".to_owned()),
        Ok(Err(error)) => JoinAttempt::Lost(error.to_string()),
        Err(_) => JoinAttempt::Lost(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn unreached(error: &io::Error) -> String {
    match JoinObstacle::of(error) {
        Some(JoinObstacle::OtherAuthority) => Unverified.to_string(),
        Some(JoinObstacle::NotExpected) => {
            "it expects no joining member: its cluster has no valid join token; make one \
                                      with 'twinbox cluster token'"
                .to_owned()
        }
        None => error.to_string(),
    }
}

/// Writes the files of the member; removes the marker last.
fn finish(
    spec: &JoinSpec,
    token: &JoinToken,
    key: &MemberKey,
    formed: FormedMember,
    by: NodeName,
    welcome: Welcome,
) -> Result<Joined, JoinError> {
    let wrong = |what: &str| JoinError::Answer(by.clone(), what.to_owned());
    if !token.is_of_authority(&welcome.authority) {
        return Err(wrong("its authority is not the token's"));
    }
    let mut members = Vec::new();
    for member in &welcome.members {
        let name: NodeName = member.name.parse().map_err(|_| wrong("it names a member that has no name"))?;
        let kind = if member.witness { MemberKind::Witness } else { MemberKind::Node };
        members.push((name, kind, member.address.clone()));
    }
    let issued = Issued { cert_pem: welcome.certificate, key_pem: key.pem(), ca_pem: welcome.authority.clone() };
    issued.save(&formed.tls_dir)?;
    let identity = NodeIdentity::load(&formed.tls_dir)?;
    if identity.name != spec.name || identity.cluster != token.cluster || identity.kind != token.kind() {
        return Err(wrong("its certificate is somebody else's"));
    }
    folders::make_folder(&formed.data_dir).map_err(io_error(&formed.data_dir))?;
    if formed.kind == MemberKind::Node {
        // The key belongs to the CA that signed; during a rotation the node fetches the other key after its start.
        let authority = CertificateAuthority::from_pem(&formed.tls_dir, welcome.authority, &welcome.authority_key)?;
        Seal::new(&formed.tls_dir, &formed.data_dir.join(SEAL_SECRET)).close(&authority)?;
    }
    let everyone = members.iter().map(|(name, ..)| name.clone()).collect();
    let like_init = InitSpec { cluster_name: welcome.cluster_name.clone(), members, sip: spec.sip.clone() };
    let timing = if welcome.timing == "wan" { "wan" } else { "lan" };
    let settings = format!("\n# As on the member that let this one in; the same on all.\ntiming = \"{timing}\"");
    let text = init::config_text(&like_init, token.cluster, &formed, &settings);
    // Durable before the marker goes: without it, the same command does not go on.
    twinbox_pki::write_private(&formed.config, text.as_bytes()).map_err(io_error(&formed.config))?;
    if let Some(home) = formed.config.parent() {
        fs::remove_file(home.join(MARK)).map_err(io_error(&home.join(MARK)))?;
    }
    Ok(Joined { id: token.cluster, cluster_name: welcome.cluster_name, by, member: formed, everyone })
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> JoinError {
    let path = path.to_owned();
    move |source| JoinError::Io { path, source }
}

#[cfg(test)]
#[path = "../../tests/unit/joining.rs"]
mod tests;
