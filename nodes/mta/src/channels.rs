//! The channels of the duty `mta`: all that leaves by mail.

use std::sync::Arc;

use twinbox_clock::wall;
use twinbox_devices::{Kind, Text};
use twinbox_duty::{ActOutcome, Channels, DueNotification, Notifications, Prepared};
use twinbox_gate::Permit;
use twinbox_ids::{EffectId, Epoch, Timestamp};
use twinbox_mail::{
    Address,
    compose::{Attachment, Notice},
    dkim,
    incoming::{Importance, Sensitivity},
};
use twinbox_mailstore::{MailError, Message, ReturnedMessage, Returns};
use twinbox_outbox::{Channel, Effect, NewEffect};
use twinbox_reports::ReportSource;

use crate::{
    Mailer, Notify, Outgoing, SendFailure,
    audio_room::{AudioRoom, ROOM_MIB, ROOM_PAUSE_MS, RoomTaken},
    report, system, voice,
};

/// Sender of the duty's mails.
#[derive(Debug, Clone)]
pub struct MailSender {
    /// Domain of Message-IDs.
    pub domain: String,
    /// Sender of notifications, in the envelope too.
    pub from: Address,
    /// Display name of the sender.
    pub from_name: String,
    /// Sends the mails.
    pub mailer: Mailer,
    /// Signs the mails.
    pub dkim: Option<Arc<dkim::Signer>>,
}

/// Mail out of a node.
#[derive(Debug, Clone, Default)]
pub enum MailOut {
    /// Not configured: mails are dead letters.
    #[default]
    Off,
    /// Configured, and this node cannot use it for this reason: mails wait.
    Unusable(String),
    /// The sender.
    Ready(Arc<MailSender>),
}

/// Mail out as it is whenever the function is called: administrators change it while the node runs.
pub type CurrentMailOut = Arc<dyn Fn() -> MailOut + Send + Sync>;

impl MailOut {
    /// True when mails may be queued: they leave from this node, or wait.
    pub fn is_configured(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// The sender, if this node can send.
    pub fn sender(&self) -> Option<&Arc<MailSender>> {
        match self {
            Self::Ready(sender) => Some(sender),
            Self::Off | Self::Unusable(_) => None,
        }
    }

    /// The sender, else the end of a preparation; `off`: its end while mail out is not configured.
    pub(crate) fn or_end<W>(self, off: impl FnOnce(&str) -> Prepared<W>) -> Result<Arc<MailSender>, Prepared<W>> {
        match self {
            Self::Ready(sender) => Ok(sender),
            Self::Unusable(reason) => {
                Err(Prepared::Later(Timestamp(wall().0.saturating_add(UNUSABLE_PAUSE_MS)), reason))
            }
            Self::Off => Err(off(NOT_CONFIGURED)),
        }
    }
}

/// A mail that is ready to leave.
pub enum MailWork {
    /// A notification.
    Notification {
        /// The mail.
        outgoing: Outgoing,
        /// The notification in it.
        due: Box<DueNotification>,
        /// Memory for its recording, if it has one.
        room: Option<RoomTaken>,
    },
    /// A message that a user sent to another voicemail system, with the memory for it.
    Voice(Outgoing, RoomTaken),
    /// A report of delivery to the sender of a mail.
    Report(Outgoing),
    /// A mail of the system to a user or administrator.
    System(Outgoing),
}

/// The channels of the duty.
pub struct MailChannels {
    notifications: Notifications,
    out: CurrentMailOut,
    returns: Returns,
    reports: ReportSource,
    room: AudioRoom,
}

impl MailSender {
    /// A mail with its DKIM signature in front, if mails are signed.
    pub(crate) fn signed(&self, mut mail: Vec<u8>, date_unix: i64) -> Result<Vec<u8>, String> {
        if let Some(dkim) = &self.dkim {
            let header = dkim.sign(&mail, date_unix).map_err(|error| error.to_string())?;
            mail.splice(0..0, header.into_bytes());
        }
        Ok(mail)
    }
}

impl MailChannels {
    /// Channels for these notifications, for voice messages, which come back by `returns`, and for mails of the system,
    /// which may have one of `reports`.
    pub fn new(notifications: Notifications, out: CurrentMailOut, returns: Returns, reports: ReportSource) -> Self {
        Self { notifications, out, returns, reports, room: AudioRoom::new(ROOM_MIB) }
    }

    /// Limits the memory for the audio of mails under way to this many MiB.
    pub fn with_audio_room(self, mib: u32) -> Self {
        Self { room: AudioRoom::new(mib), ..self }
    }

    /// The mail of a notification; `Err` with the reason if there cannot be one.
    async fn mail(&self, effect: &Effect, due: DueNotification) -> Result<MailWork, MailRefused> {
        let sender = match (self.out)() {
            MailOut::Ready(sender) => sender,
            MailOut::Unusable(reason) => return Err(MailRefused::Later(UNUSABLE_PAUSE_MS, reason)),
            MailOut::Off => return Err(MailRefused::Never(NOT_CONFIGURED.to_owned())),
        };
        let never = |error: &dyn std::fmt::Display| MailRefused::Never(error.to_string());
        let (Kind::Mail { address, .. } | Kind::Pager { address } | Kind::SmsMail { address }) = &due.device.kind
        else {
            return Err(MailRefused::Never("the device was replaced by one of another kind".to_owned()));
        };
        let to = Address::parse(address.reveal()).map_err(|error| never(&error))?;
        let form = due.device.kind.name().form().ok_or_else(|| never(&"the device takes no mail"))?;
        let templates = self.notifications.templates();
        let Text { subject, body } =
            templates.compose(form, due.language(), &due.content, &due.zone).map_err(|error| never(&error))?;
        let (audio, room) = self.audio(&due).await?.unzip();
        let attached = due.message.as_ref().filter(|_| audio.is_some());
        let message_id = format!("{}@{}", mail_name(effect, attached), sender.domain);
        let notice = Notice {
            from: sender.from.clone(),
            from_name: sender.from_name.clone(),
            to,
            subject: subject.map_or_else(String::new, |subject| subject.reveal().clone()),
            text: body.reveal().clone(),
            message_id,
            date_unix: i64::try_from(effect.new.created.0 / 1_000).unwrap_or_default(),
            audio,
            auto_submitted: true,
            importance: Importance::Normal,
            sensitivity: Sensitivity::None,
        };
        let bytes = sender.signed(notice.compose(), notice.date_unix).map_err(MailRefused::Never)?;
        let outgoing = Outgoing {
            sender: Some(sender.from.to_string()),
            recipient: notice.to.to_string(),
            bytes: bytes.into(),
            envelope_id: effect.receiver_id().to_string(),
            notify: Notify::FailureAndDelay,
        };
        Ok(MailWork::Notification { outgoing, due: Box::new(due), room })
    }

    /// The recording as WAV, if the device wants it and the class of service lets it leave.
    async fn audio(&self, due: &DueNotification) -> Result<Option<(Attachment, RoomTaken)>, MailRefused> {
        let wanted = due.audio_allowed && matches!(due.device.kind, Kind::Mail { audio: true, .. });
        let Some(message) = due.message.as_ref().filter(|_| wanted) else { return Ok(None) };
        let room = self.room.take(message.length_ms.saturating_mul(G711_BYTES_PER_MS));
        let room = room.ok_or_else(|| {
            MailRefused::Later(ROOM_PAUSE_MS, "the recordings of other mails fill the memory for them".to_owned())
        })?;
        let wav = self.notifications.mailstore().wav(message).await;
        let bytes = wav.map_err(|error| MailRefused::Later(AUDIO_PAUSE_MS, error.to_string()))?;
        let file_name = format!("voicemail-{}.wav", due.content.latest.received.strftime("%Y%m%d-%H%M%S"));
        Ok(Some((Attachment { file_name, content_type: "audio/wav".to_owned(), bytes }, room)))
    }
}

/// Left part of the Message-ID of the mail of an effect, the same at each attempt with this recording. Mail in finds the effect
/// of a report by the characters before the full stop. The mail with a part of a recording has a name of its own: a server
/// that has it, and whose answer was lost, would take the mail with the whole for a repeat, and drop it (rule E1).
fn mail_name(effect: &Effect, attached: Option<&Message>) -> String {
    let id = effect.receiver_id();
    match attached.and_then(|message| message.audio.as_ref()).filter(|audio| audio.partial) {
        Some(part) => {
            let hash = part.blob.hash.to_string();
            format!("{id}.part-{hash:.16}")
        }
        None => id.to_string(),
    }
}

/// Reason why a mail cannot be made.
enum MailRefused {
    Never(String),
    /// Retry after this pause, in milliseconds.
    Later(u64, String),
}

/// Reason why no mail leaves.
const NOT_CONFIGURED: &str =
    "mail out is not configured: set mail.domain and mail.smarthost ('twinbox setting set')";
/// Pause while this node cannot use mail out, in milliseconds: a corrected one, or the next holder of the duty, sends what
/// waits.
const UNUSABLE_PAUSE_MS: u64 = 30_000;
/// Pause when the audio cannot be read, in milliseconds.
const AUDIO_PAUSE_MS: u64 = 10_000;
/// Bytes of G.711 in a millisecond.
const G711_BYTES_PER_MS: u64 = 8;

impl Channels for MailChannels {
    type Work = MailWork;

    fn serves(&self, channel: Channel) -> bool {
        channel.is_mail()
    }

    fn begins(&self, _: &Epoch) {
        self.notifications.begin();
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<MailWork> {
        let mailstore = self.notifications.mailstore();
        if effect.new.channel == Channel::Report {
            return report::prepare(mailstore, (self.out)(), effect).map(MailWork::Report);
        }
        if effect.new.channel == Channel::System {
            return system::prepare(mailstore, &self.reports, (self.out)(), effect).await.map(MailWork::System);
        }
        if effect.is_sent() {
            return voice::prepare(mailstore, (self.out)(), &self.room, effect)
                .await
                .map(|(outgoing, room)| MailWork::Voice(outgoing, room));
        }
        match self.notifications.prepare(effect).await {
            Prepared::Act(due) => {
                let device = due.device.clone();
                match self.mail(effect, due).await {
                    Ok(work) => Prepared::Act(work),
                    Err(MailRefused::Later(pause_ms, reason)) => {
                        Prepared::Later(Timestamp(wall().0.saturating_add(pause_ms)), reason)
                    }
                    Err(MailRefused::Never(reason)) => {
                        Prepared::Impossible(reason, self.notifications.refused(effect, &device).await)
                    }
                }
            }
            Prepared::Unwanted(reason) => Prepared::Unwanted(reason),
            Prepared::Later(at, reason) => Prepared::Later(at, reason),
            Prepared::Impossible(reason, next) => Prepared::Impossible(reason, next),
        }
    }

    fn covers(&self, work: &MailWork) -> Vec<EffectId> {
        match work {
            MailWork::Notification { due, .. } => due.covers(),
            MailWork::Voice(..) | MailWork::Report(_) | MailWork::System(_) => Vec::new(),
        }
    }

    fn route(&self, _: &Effect, work: &MailWork) -> String {
        let (MailWork::Notification { outgoing, .. }
        | MailWork::Voice(outgoing, _)
        | MailWork::Report(outgoing)
        | MailWork::System(outgoing)) = work;
        (self.out)().sender().map(|sender| sender.mailer.route_to(&outgoing.recipient)).unwrap_or_default()
    }

    async fn act(&self, effect: &Effect, work: MailWork, permit: Arc<Permit>) -> ActOutcome {
        let sender = match (self.out)() {
            MailOut::Ready(sender) => sender,
            MailOut::Unusable(reason) => return ActOutcome::Failed(reason),
            MailOut::Off => return ActOutcome::Failed(NOT_CONFIGURED.to_owned()),
        };
        let is_report = matches!(work, MailWork::Report(_));
        let (outgoing, due, _room) = match work {
            MailWork::Notification { outgoing, due, room } => (outgoing, Some(due), room),
            MailWork::Voice(outgoing, room) => (outgoing, None, Some(room)),
            MailWork::Report(outgoing) | MailWork::System(outgoing) => (outgoing, None, None),
        };
        match sender.mailer.send(&outgoing, &*permit).await {
            Ok(delivered) => {
                let next = match &due {
                    Some(due) => self.notifications.delivered(effect, due).await,
                    None => Vec::new(),
                };
                ActOutcome::Done(format!("{}: {}", delivered.by, delivered.reply), next)
            }
            Err(SendFailure::NotHolder) => ActOutcome::NotHolder,
            // Nothing follows a report that is not taken (RFC 3461 section 6.1): no alarm, no dead letter.
            Err(SendFailure::Permanent(problem)) if is_report => {
                ActOutcome::Done(format!("the report was refused: {problem}"), Vec::new())
            }
            Err(SendFailure::Permanent(problem)) => {
                let next = match &due {
                    Some(due) => self.notifications.refused(effect, &due.device).await,
                    None => Vec::new(),
                };
                ActOutcome::Refused(problem.to_string(), next)
            }
            Err(SendFailure::Temporary(problem)) if problem.step.is_before_a_mail() => {
                ActOutcome::Unreachable(problem.to_string())
            }
            Err(SendFailure::Temporary(problem)) => ActOutcome::Failed(problem.to_string()),
            // The server may have it. The repeat has the same Message-ID.
            Err(SendFailure::Unknown(problem)) => ActOutcome::Unclear(problem.to_string()),
        }
    }

    async fn returned(&self, effect: &Effect, reason: &str) -> Result<Option<ReturnedMessage>, MailError> {
        self.returns.of(effect, reason).await
    }

    async fn abandoned(&self, effect: &Effect) -> Result<Vec<NewEffect>, MailError> {
        self.notifications.abandoned(effect).await
    }

    async fn deletes_message(&self, effect: &Effect) -> Result<bool, MailError> {
        self.notifications.deletes_message(effect).await
    }
}
