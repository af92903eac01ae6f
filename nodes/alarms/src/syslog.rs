//! Alarms of this node in syslog: RFC 5424 to another machine, the format of syslog(3) to the local one.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixDatagram, lookup_host},
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::warn;
use twinbox_clock::wall;
use twinbox_ids::Backoff;

use crate::{
    Code, Severity,
    alarm::Alarm,
    notice::{ENTERPRISE, rfc3339},
};

/// Maximum number of waiting lines; further lines are left out.
const WAITING: usize = 256;
/// Timeout of one line.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between attempts to reach the receiver.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
/// Maximum attempts per line.
const ATTEMPTS: u32 = 8;
/// Default port of syslog.
const PORT: u16 = 514;

/// Receiver of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogTarget {
    /// Local syslog socket.
    Local(PathBuf),
    /// RFC 5426, `host:port`.
    Udp(String),
    /// RFC 6587 with octet counting, `host:port`.
    Tcp(String),
}

/// The text is not a syslog receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a syslog receiver")]
pub struct SyslogError;

impl FromStr for SyslogTarget {
    type Err = SyslogError;

    fn from_str(text: &str) -> Result<Self, SyslogError> {
        if text == "local" {
            return Ok(Self::Local("/dev/log".into()));
        }
        let (scheme, address) = text.split_once("://").ok_or(SyslogError)?;
        let address = with_port(address, PORT).ok_or(SyslogError)?;
        match scheme {
            "udp" => Ok(Self::Udp(address)),
            "tcp" => Ok(Self::Tcp(address)),
            _ => Err(SyslogError),
        }
    }
}

/// `host:port` from a host with or without a port.
pub fn with_port(address: &str, port: u16) -> Option<String> {
    let bare = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, after)) => after.is_empty(),
        None => !address.contains(':'),
    };
    let full = if bare { format!("{address}:{port}") } else { address.to_owned() };
    let (host, port) = full.rsplit_once(':')?;
    let fine = !host.is_empty()
        && !host.contains(|c: char| c.is_whitespace() || c == '/')
        && (host.starts_with('[') || !host.contains(':'));
    (fine && port.parse::<u16>().is_ok_and(|port| port != 0)).then_some(full)
}

/// Syslog facility.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// Names of the facilities as text.
    pub const WORDS: [&'static str; 10] =
        ["daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"];

    /// Facility by name; `daemon` for an unknown name.
    pub fn named(word: &str) -> Self {
        Self(match word {
            "user" => 1,
            _ => match word.strip_prefix("local").and_then(|n| n.parse::<u8>().ok()).filter(|n| *n < 8) {
                Some(n) => 16 + n,
                None => 3,
            },
        })
    }
}

/// Writes alarms to syslog. Does not block.
#[derive(Debug, Clone)]
pub struct Syslog {
    facility: Facility,
    local: bool,
    lines: mpsc::Sender<Vec<u8>>,
}

impl Syslog {
    /// Starts the sender task; it ends with the last clone of the result.
    pub fn start(target: SyslogTarget, facility: Facility) -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        let local = matches!(target, SyslogTarget::Local(_));
        tokio::spawn(send_all(target, waiting));
        Self { facility, local, lines }
    }

    /// Queues one line.
    pub(crate) fn send(&self, alarm: &Alarm, raised: bool) {
        let line = if self.local { self.short(alarm, raised) } else { self.full(alarm, raised) };
        if self.lines.try_send(line.into_bytes()).is_err() {
            warn!("syslog is too slow; line dropped");
        }
    }

    fn priority(&self, alarm: &Alarm, raised: bool) -> u8 {
        let severity = match alarm.code.map_or(Severity::Warning, Code::severity) {
            _ if !raised => 5,
            Severity::Warning => 4,
            Severity::Major => 3,
            Severity::Critical => 2,
        };
        self.facility.0 * 8 + severity
    }

    /// Line in RFC 5424 format.
    fn full(&self, alarm: &Alarm, raised: bool) -> String {
        let (priority, pid) = (self.priority(alarm, raised), std::process::id());
        let at = rfc3339(if raised { alarm.raised } else { alarm.cleared.unwrap_or(alarm.raised) });
        let number = ENTERPRISE.iter().skip(6).map(u32::to_string).collect::<Vec<_>>().join(".");
        let data = [
            ("id", alarm.id.to_string()),
            ("code", alarm.word.clone()),
            ("what", transition(raised).to_owned()),
            ("severity", alarm.code.map_or("", |code| code.severity().word()).to_owned()),
            ("subject", alarm.subject.clone()),
            ("count", alarm.count.to_string()),
        ]
        .map(|(name, value)| format!(" {name}=\"{}\"", Escaped(&value)))
        .concat();
        // The text is UTF-8 and begins with a byte order mark.
        format!(
            "<{priority}>1 {at} {} twinbox {pid} {} [twinbox@{number}{data}] \u{feff}{}",
            alarm.node,
            alarm.word,
            text(alarm, raised)
        )
    }

    /// Line in the format of syslog(3).
    fn short(&self, alarm: &Alarm, raised: bool) -> String {
        let (priority, pid) = (self.priority(alarm, raised), std::process::id());
        let now = i64::try_from(wall().0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let now = now.unwrap_or_default().to_zoned(TimeZone::system());
        format!("<{priority}>{} twinbox[{pid}]: {}", now.strftime("%b %e %H:%M:%S"), text(alarm, raised))
    }
}

fn transition(raised: bool) -> &'static str {
    if raised { "raised" } else { "cleared" }
}

fn text(alarm: &Alarm, raised: bool) -> String {
    let colon = if alarm.detail.is_empty() { "" } else { ": " };
    format!("alarm {} {} {} ({}){colon}{}", alarm.id, transition(raised), alarm.word, alarm.subject, alarm.detail)
}

/// A value of structured data, escaped (RFC 5424, section 6.3.3).
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\\' | ']' => write!(f, "\\{c}"),
            c => write!(f, "{c}"),
        })
    }
}

/// Connection to the receiver; opened again after a failure.
enum Connection {
    None,
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

async fn send_all(target: SyslogTarget, mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut connection = Connection::None;
    while let Some(line) = lines.recv().await {
        let mut retry = RETRY;
        for attempt in 1..=ATTEMPTS {
            let sent = timeout(TIMEOUT, send(&mut connection, &target, &line)).await;
            let error = match sent {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            connection = Connection::None;
            if attempt == ATTEMPTS {
                warn!(?target, %error, "syslog cannot be reached; line dropped");
                break;
            }
            sleep(retry.failed()).await;
        }
    }
}

async fn send(connection: &mut Connection, target: &SyslogTarget, line: &[u8]) -> io::Result<()> {
    // Looks up the name for each datagram: UDP does not report a receiver that has moved.
    if let Connection::None | Connection::Udp(_) = connection {
        *connection = match target {
            SyslogTarget::Local(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Connection::Unix(socket)
            }
            SyslogTarget::Udp(address) => {
                let found =
                    lookup_host(address).await.and_then(|mut all| all.next().ok_or(io::ErrorKind::NotFound.into()));
                let address = match (found, &*connection) {
                    (Ok(address), _) => address,
                    // The name servers do not answer: the address of the line before.
                    (Err(_), Connection::Udp(socket)) => socket.peer_addr()?,
                    (Err(error), _) => return Err(error),
                };
                let any: std::net::IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect(address).await?;
                Connection::Udp(socket)
            }
            SyslogTarget::Tcp(address) => Connection::Tcp(TcpStream::connect(address).await?),
        };
    }
    match connection {
        Connection::None => Err(io::ErrorKind::NotConnected.into()),
        Connection::Unix(socket) => socket.send(line).await.map(drop),
        Connection::Udp(socket) => socket.send(line).await.map(drop),
        Connection::Tcp(stream) => {
            // A close by the receiver is only visible on a read.
            if matches!(stream.try_read(&mut [0; 64]), Ok(0)) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let framed = [format!("{} ", line.len()).as_bytes(), line].concat();
            stream.write_all(&framed).await
        }
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::Timestamp;

    use super::*;
    use crate::alarm::AlarmId;

    #[test]
    fn receiver_port_is_optional() {
        for (text, target) in [
            ("local", Some(SyslogTarget::Local("/dev/log".into()))),
            ("udp://10.0.0.9", Some(SyslogTarget::Udp("10.0.0.9:514".to_owned()))),
            ("udp://[2001:db8::1]", Some(SyslogTarget::Udp("[2001:db8::1]:514".to_owned()))),
            ("tcp://logs.example:601", Some(SyslogTarget::Tcp("logs.example:601".to_owned()))),
            ("tcp://[::1]:601", Some(SyslogTarget::Tcp("[::1]:601".to_owned()))),
            ("udp://", None),
            ("udp://host:0", None),
            ("udp://host:port", None),
            ("udp://2001:db8::1", None),
            ("http://host", None),
            ("10.0.0.9", None),
        ] {
            assert_eq!(text.parse().ok(), target, "{text}");
        }
    }

    #[tokio::test]
    async fn line_has_the_format_of_rfc_5424() {
        let (lines, mut waiting) = mpsc::channel(1);
        let syslog = Syslog { facility: Facility::named("local3"), local: false, lines };
        let mut alarm = Alarm::new(
            "a".parse().expect("a name"),
            0,
            AlarmId::from_slice(&[0xab; 6]).expect("six bytes"),
            Code::ServiceFailed,
            "calls \"]\\".to_owned(),
            Timestamp(1_700_000_000_123),
        );
        alarm.detail = "zu spät".to_owned();
        syslog.send(&alarm, true);
        let line = String::from_utf8(waiting.recv().await.expect("a line")).expect("UTF-8");
        let start =
            format!("<154>1 2023-11-14T22:13:20.123Z a twinbox {} service-failed [twinbox@", std::process::id());
        assert!(line.starts_with(&start), "{line}");
        for part in [
            "id=\"abababababab\"",
            "what=\"raised\"",
            r#"subject="calls \"\]\\""#,
            "] \u{feff}alarm abababababab raised service-failed (calls \"]\\): zu spät",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
    }
}
