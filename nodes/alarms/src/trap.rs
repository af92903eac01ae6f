//! Delivery by SNMP traps, v2c or v3; `deploy/snmp/TWINBOX-MIB.txt` describes their content.

use std::time::Duration;

use async_snmp::{
    Auth, AuthProtocol, Client, Oid, PrivProtocol, UsmConfig, Value, VarBind,
    v3::{AuthoritativeEngine, PersistedAuthoritativeEngine},
};
use tokio::time::timeout;
use twinbox_clock::{BootInstant, wall};
use twinbox_gate::Permit;
use twinbox_ids::NodeName;

use crate::{
    Severity,
    notice::{ENTERPRISE, Notice},
    outbound::DeliveryError,
    syslog::with_port,
};

/// Timeout for the look-up of a receiver's name and the write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Default port of trap receivers.
const PORT: u16 = 162;

/// Authentication of an SNMP v3 user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrapAuthentication {
    /// HMAC-SHA-96.
    Sha1,
    /// HMAC-192-SHA-256.
    Sha256,
    /// HMAC-384-SHA-512.
    Sha512,
}

impl TrapAuthentication {
    /// Names of the algorithms as text.
    pub const WORDS: [&'static str; 3] = ["sha1", "sha256", "sha512"];

    /// Algorithm by name; SHA-256 for an unknown name.
    pub fn named(word: &str) -> Self {
        match word {
            "sha1" => Self::Sha1,
            "sha512" => Self::Sha512,
            _ => Self::Sha256,
        }
    }
}

/// Encryption of SNMP v3 content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrapPrivacy {
    /// AES-128-CFB.
    Aes128,
}

/// Security of traps.
#[derive(Clone)]
pub enum TrapSecurity {
    /// v2c: community name as clear text.
    Community(String),
    /// v3.
    User {
        /// Name of the user.
        name: String,
        /// Authentication algorithm and password.
        authentication: (TrapAuthentication, String),
        /// Encryption algorithm and password; `None`: not encrypted.
        privacy: Option<(TrapPrivacy, String)>,
    },
}

/// Reason why the configured trap receivers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrapError {
    /// The receiver is not a valid address.
    #[error("'{0}' is not a trap receiver: write HOST or HOST:PORT")]
    Receiver(String),
    /// SNMP v3 does not accept the user or the passwords.
    #[error("SNMP v3 does not accept this user or password: {0}")]
    User(String),
}

/// Receivers of traps.
#[derive(Clone)]
pub struct TrapReceivers {
    receivers: Vec<String>,
    auth: Auth,
    engine: Option<AuthoritativeEngine>,
}

impl TrapReceivers {
    /// Receivers (`host` or `host:port`) of the traps from this node.
    pub fn new(node: &NodeName, receivers: &[String], security: &TrapSecurity) -> Result<Self, TrapError> {
        let receivers = receivers
            .iter()
            .map(|receiver| with_port(receiver, PORT).ok_or_else(|| TrapError::Receiver(receiver.clone())))
            .collect::<Result<_, _>>()?;
        let user = |error: &dyn std::fmt::Display| TrapError::User(error.to_string());
        let (auth, engine) = match security {
            TrapSecurity::Community(name) => (Auth::v2c(name.as_str()), None),
            TrapSecurity::User { name, authentication: (how, password), privacy } => {
                let how = match how {
                    TrapAuthentication::Sha1 => AuthProtocol::Sha1,
                    TrapAuthentication::Sha256 => AuthProtocol::Sha256,
                    TrapAuthentication::Sha512 => AuthProtocol::Sha512,
                };
                let config = UsmConfig::new(name.clone());
                let config = match privacy {
                    None => config.auth(how, password.as_str()),
                    Some((TrapPrivacy::Aes128, secret)) => {
                        config.auth_priv(how, password.as_str(), PrivProtocol::Aes128, secret.as_str())
                    }
                }
                .map_err(|error| user(&error))?;
                (config.into(), Some(engine(node).map_err(|error| user(&error))?))
            }
        };
        Ok(Self { receivers, auth, engine })
    }

    /// Sends the trap once to each receiver: traps are not acknowledged, so a lost one is not detected. It is sent again only
    /// if it left to none of them: one that cannot be reached must not keep later traps from the others.
    pub(crate) async fn deliver(&self, notice: &Notice, permit: &Permit) -> Result<(), DeliveryError> {
        let (mut failed, mut sent) = (None, false);
        for receiver in &self.receivers {
            match timeout(TIMEOUT, self.send(receiver, notice, permit)).await {
                Ok(Ok(())) => sent = true,
                Ok(Err(DeliveryError::NotHolder)) => return Err(DeliveryError::NotHolder),
                Ok(Err(error)) => failed = Some(error),
                Err(_) => failed = Some(DeliveryError::Later(format!("{receiver}: not within {TIMEOUT:?}"))),
            }
        }
        match failed {
            Some(error) if sent => {
                tracing::warn!(%error, "trap did not leave to one of its receivers");
                Ok(())
            }
            failed => failed.map_or(Ok(()), Err),
        }
    }

    async fn send(&self, receiver: &str, notice: &Notice, permit: &Permit) -> Result<(), DeliveryError> {
        let later = |error: &dyn std::fmt::Display| DeliveryError::Later(format!("{receiver}: {error}"));
        let mut client = Client::builder(receiver, self.auth.clone());
        if let Some(engine) = &self.engine {
            client = client.local_authoritative_engine(engine.clone());
        }
        // The name is looked up for each trap: a receiver may change its address.
        let client = client.connect().await.map_err(|error| later(&error))?;
        // Hundredths of a second since the machine's start, as 32 bits: wraps after 497 days, as in SNMP.
        let uptime = (BootInstant::now().as_nanos() / 10_000_000) as u32;
        let kind = oid(&[0, if notice.transition.is_raised() { 1 } else { 2 }]);
        // Checked immediately before the write (rule R6).
        permit.check()?;
        client.send_trap(&kind, uptime, bindings(notice)).await.map_err(|error| later(&error))
    }
}

impl std::fmt::Debug for TrapReceivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrapReceivers({:?})", self.receivers)
    }
}

fn oid(below: &[u32]) -> Oid {
    Oid::from_slice(&[&ENTERPRISE[..], below].concat())
}

fn bindings(notice: &Notice) -> Vec<VarBind> {
    let alarm = &notice.alarm;
    let severity = match notice.severity() {
        Severity::Warning => 1,
        Severity::Major => 2,
        Severity::Critical => 3,
    };
    let text = |text: &str| Value::from(text);
    [
        text(&notice.key()),
        text(&notice.cluster),
        text(alarm.node.as_str()),
        text(&alarm.word),
        Value::Integer(severity),
        text(&alarm.subject),
        text(&alarm.detail),
        text(notice.remedy()),
        Value::Gauge32(u32::try_from(alarm.count).unwrap_or(u32::MAX)),
        text(&notice.at()),
    ]
    .into_iter()
    .zip(1..)
    .map(|(value, n)| VarBind::new(oid(&[1, n, 0]), value))
    .collect()
}

/// SNMP v3 engine of the traps. Its id follows from the node's name, so that receivers can be configured with it.
/// Its boot count follows from the clock, in minutes, so that it increases without a file. Two starts within a
/// minute have the same count, and times within the 150 seconds that receivers allow.
fn engine(node: &NodeName) -> async_snmp::Result<AuthoritativeEngine> {
    let starts = u32::try_from(wall().0 / 60_000).unwrap_or(u32::MAX) & 0x7fff_ffff;
    let previous = PersistedAuthoritativeEngine::new(engine_id(node), starts)?;
    AuthoritativeEngine::restart(previous, |_| Ok::<(), std::convert::Infallible>(()))
}

/// Engine id by RFC 3411 (format 4, text) with net-snmp's number; a long name is cut to 27 bytes.
fn engine_id(node: &NodeName) -> Vec<u8> {
    let name = format!("twinbox-{node}");
    [&[0x80, 0, 0x1f, 0x88, 4][..], name.as_bytes().get(..27).unwrap_or(name.as_bytes())].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_id_follows_from_the_node_name() {
        let id = |name: &str| engine_id(&name.parse().expect("a name"));
        assert_eq!(id("a"), b"\x80\0\x1f\x88\x04twinbox-a");
        assert_eq!(id(&"x".repeat(63)).len(), 32);
    }

    #[test]
    fn invalid_receivers_and_users_are_refused() {
        let node: NodeName = "a".parse().expect("a name");
        let new = |receiver: &str, security: &TrapSecurity| {
            TrapReceivers::new(&node, &[receiver.to_owned()], security).map(|made| made.receivers)
        };
        let community = TrapSecurity::Community("public".to_owned());
        assert_eq!(new("10.0.0.9", &community), Ok(vec!["10.0.0.9:162".to_owned()]));
        assert_eq!(new("a b", &community), Err(TrapError::Receiver("a b".to_owned())));
        let user = |password: &str| TrapSecurity::User {
            name: "twinbox".to_owned(),
            authentication: (TrapAuthentication::Sha256, password.to_owned()),
            privacy: None,
        };
        assert!(new("h", &user("long enough")).is_ok());
        assert!(matches!(new("h", &user("short")), Err(TrapError::User(_))));
    }
}
