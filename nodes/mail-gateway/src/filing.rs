//! Files received mails: finds the mailbox of an address, and makes a message of each sound file.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use twinbox_alarms::{Alarms, Code};
use twinbox_clock::wall;
use twinbox_ids::{EffectId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_locations::number_of_sender;
use twinbox_mail::{
    Address,
    bounce::{Action, Bounce},
    incoming::{self, Importance, Incoming, Sensitivity},
};
use twinbox_mailstore::{
    Codec, ImportOutcome, MailError, MailOrigin, Mailbox, MailedMessage, Mailstore, NewMessage, OutgoingRecord,
    PinCheck, Report, Returns,
};
use twinbox_places::host;

use crate::{
    Delivery, Mail, MailHandler, PasswordCheck, RecipientError, Sender, SuccessReport,
    lookup::{POSTMASTER, find},
    sounds::Sounds,
};

/// Longest kept text of a mail, in characters.
const LONGEST_TEXT: usize = 4_000;
/// Longest kept subject and name, in characters.
const LONGEST_LINE: usize = 200;
/// Maximum number of sound files of one mail.
const MOST_FILES: usize = 20;
/// Longest returned header of a mail in a report of success, in bytes.
const LONGEST_HEADER: usize = 8 * 1024;
/// Longest recording without a limit in the class of service, in milliseconds.
const LONGEST_MS: u64 = 30 * 60 * 1_000;

/// Recipient of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilingRecipient {
    /// A mailbox.
    Mailbox(MailboxId),
    /// The sender of notifications: reports of failure come back to it.
    Reports,
}

/// Names under which the cluster takes and sends mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailIdentity {
    /// Domain of the mailboxes, in lower case.
    pub domain: String,
    /// Sender of notifications: reports of failure come back to it.
    pub from: Address,
}

/// The names as they are whenever the function is called: administrators change them while the node runs. `None`: no mail
/// is taken.
pub type CurrentIdentity = Arc<dyn Fn() -> Option<Arc<MailIdentity>> + Send + Sync>;

/// Files mails in mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct MailFiling {
    mailstore: Mailstore,
    alarms: Alarms,
    identity: CurrentIdentity,
    returns: Returns,
}

impl MailFiling {
    /// Files mails to `NUMBER@DOMAIN` and to addresses of users, and reads the reports of failure that come to the sender
    /// of notifications. Messages that were not delivered elsewhere come back to their senders by `returns`.
    pub fn new(mailstore: Mailstore, alarms: Alarms, identity: CurrentIdentity, returns: Returns) -> Self {
        Self { mailstore, alarms, identity, returns }
    }

    /// Files a mail in mailboxes. A sound file is decoded for all of them together, and not at all where all have it: a
    /// repeated delivery of a mail to many gets further than the one before.
    async fn file(&self, mailboxes: BTreeSet<MailboxId>, mail: &Parsed) -> BTreeMap<MailboxId, Delivery> {
        let mut filings = Vec::with_capacity(mailboxes.len());
        for mailbox in mailboxes {
            filings.push((mailbox, self.begin(mailbox, mail).await));
        }
        let begun = filings.iter().filter_map(|(_, filing)| filing.as_ref().ok());
        let most_ms = begun.map(|begun| begun.max_ms).max().unwrap_or_default();
        let mut sounds = Sounds::of(&mail.incoming, most_ms);
        // All lengths before the first message: a refused mail leaves nothing in the mailbox.
        for index in 0..sounds.len() {
            for (mailbox, filing) in &mut filings {
                if let Ok(begun) = filing
                    && let Err(end) = self.check_length(*mailbox, index, begun, &mut sounds).await
                {
                    *filing = Err(end);
                }
            }
        }
        for index in 0..sounds.len() {
            for (mailbox, filing) in &mut filings {
                if let Ok(begun) = filing
                    && let Err(error) = self.file_one(*mailbox, mail, index, begun, &mut sounds).await
                {
                    *filing = Err(later(error.to_string()));
                }
            }
        }
        filings.into_iter().map(|(mailbox, filing)| (mailbox, filing.map_or_else(|end| end, Filing::end))).collect()
    }

    /// Begins to file a mail in a mailbox; the delivery if none of it can be filed.
    async fn begin(&self, mailbox: MailboxId, mail: &Parsed) -> Result<Filing, Delivery> {
        let files = mail.incoming.audio.len();
        if files > MOST_FILES {
            let reason = format!("the mail has {files} sound files, more than {MOST_FILES}: send several mails");
            return Err(refused("5.6.1", &reason));
        }
        let owner = match self.mailstore.get(mailbox).await {
            Ok(Some(owner)) => owner,
            Ok(None) => return Err(refused("5.1.1", "the mailbox was removed")),
            Err(error) => return Err(later(error.to_string())),
        };
        let max_ms =
            self.mailstore.rules(&owner).ok().and_then(|rules| rules.max_message_ms()).unwrap_or(LONGEST_MS);
        let delivery = incoming::delivery_id(mailbox.to_bytes(), &mail.incoming, &mail.sender);
        Ok(Filing { owner, max_ms, delivery, filed: Vec::new(), unreadable: None, beyond_quota: 0 })
    }

    /// Refuses a mail whose sound file at `index` is longer than the mailbox takes, unless it was filed before.
    async fn check_length(
        &self,
        mailbox: MailboxId,
        index: usize,
        filing: &Filing,
        sounds: &mut Sounds<'_>,
    ) -> Result<(), Delivery> {
        let known = self.mailstore.knows_mail(mailbox, message_id(filing.delivery, index)).await;
        if known.map_err(|error| later(error.to_string()))? {
            return Ok(());
        }
        match sounds.at(index).await {
            Ok(sound) if !sound.is_within(filing.max_ms) => {
                let most = filing.max_ms / 1_000;
                let reason = format!("the sound is too long: the mailbox takes messages of at most {most} s");
                Err(refused("5.6.1", &reason))
            }
            _ => Ok(()),
        }
    }

    /// Files the sound file at `index` of a mail. One that cannot be read is left out, and so are those behind the first for
    /// which the mailbox has no room.
    async fn file_one(
        &self,
        mailbox: MailboxId,
        mail: &Parsed,
        index: usize,
        filing: &mut Filing,
        sounds: &mut Sounds<'_>,
    ) -> Result<(), MailError> {
        let id = message_id(filing.delivery, index);
        if self.mailstore.knows_mail(mailbox, id).await? {
            filing.filed.push(format!("{id} (known)"));
            return Ok(());
        }
        // Room for the first was found when the recipient was accepted.
        if index > 0 && self.mailstore.is_full(&filing.owner).await? {
            filing.beyond_quota += 1;
            return Ok(());
        }
        let sound = match sounds.at(index).await {
            Ok(sound) => sound,
            Err(reason) => {
                filing.unreadable.get_or_insert(reason);
                return Ok(());
            }
        };
        let audio = twinbox_mailstore::Audio { codec: sound.codec, bytes: sound.bytes };
        // A voice message from a location is a person's, whatever its system writes.
        let is_automatic = mail.incoming.auto_submitted && !(mail.incoming.is_vpim && mail.remote.is_some());
        let message = MailedMessage { id, mailbox, new: mail.message(sound.codec), audio, is_automatic };
        filing.filed.push(match self.mailstore.receive_mail(message).await? {
            ImportOutcome::Taken(_) => id.to_string(),
            ImportOutcome::Known | ImportOutcome::Kept => format!("{id} (known)"),
        });
        Ok(())
    }

    /// Adds the report of success that the sender of a mail wants. The mail counts as filed only with it, so that a
    /// delivery which ends between the two is repeated. None goes to the empty sender, hence none about a report.
    async fn report(
        &self,
        mailbox: MailboxId,
        parsed: &Parsed,
        mail: &Mail<FilingRecipient>,
        wanted: &SuccessReport,
        filed: Delivery,
    ) -> Delivery {
        let (Some(sender), Delivery::Accepted { .. }) = (&mail.sender, &filed) else { return filed };
        let report = Report {
            to: Pii::new(sender.clone()),
            recipient: wanted.address.clone(),
            original: wanted.original.clone().unwrap_or_default(),
            envelope_id: Pii::new(mail.envelope_id.clone().unwrap_or_default()),
            header: Pii::new(header(&mail.bytes)),
            arrived: parsed.received,
        };
        let delivery = incoming::delivery_id(mailbox.to_bytes(), &parsed.incoming, &parsed.sender);
        match self.mailstore.add_report(mailbox, message_id(delivery, 0), report).await {
            Ok(_) => filed,
            Err(error) => later(error.to_string()),
        }
    }

    /// A report of failure raises an alarm that names the notification; a voice message comes back to its sender. Any
    /// other mail to the sender of notifications is taken and thrown away: a refusal could begin a loop.
    async fn read_report(&self, report: Option<&Bounce>) -> Delivery {
        if let Some(report) = report
            && let Err(reason) = self.note_report(report).await
        {
            return later(reason);
        }
        report_read()
    }

    /// `Err`: the report is to be delivered again later, for this reason.
    async fn note_report(&self, report: &Bounce) -> Result<(), String> {
        let text = |error: MailError| error.to_string();
        let failed = || report.recipients.iter().filter(|recipient| recipient.action == Action::Failed);
        let identity = (self.identity)().ok_or("the domain of the mailboxes was unset")?;
        let id = report.original_message_id.as_deref().and_then(|id| effect_of(id, &identity.domain));
        let (Some(first), Some(id)) = (failed().next(), id) else { return Ok(()) };
        let effect = self.mailstore.effect(id).map_err(text)?;
        let Some(effect) = effect else {
            let elsewhere = "the reported mail may be known to a node that is away now";
            return if self.mailstore.together() { Ok(()) } else { Err(elsewhere.to_owned()) };
        };
        if effect.bounced.is_some() {
            return Ok(());
        }
        if effect.is_sent()
            && self.mailstore.outgoing(effect.new.cause.message).map_err(text)? == OutgoingRecord::Missing
        {
            return Err("the reported message has not arrived on this node yet".to_owned());
        }
        // The status first: it decides about the spoken reason.
        let spoken = format!("{} {}", first.status, first.diagnostic.as_deref().unwrap_or_default());
        let returned = self.returns.of(&effect, &spoken).await.map_err(text)?;
        let reasons: Vec<_> = failed()
            .map(|recipient| recipient.diagnostic.clone().unwrap_or_else(|| recipient.status.clone()))
            .collect();
        let reason = line(&reasons.join("; "));
        if self.mailstore.note_bounce(id, &reason, returned).await.map_err(text)? {
            let subject = if effect.is_sent() { effect.new.channel.word() } else { "mail" };
            self.alarms.raise(Code::DeadLetter, subject, format!("mail {id} came back: {reason}"));
        }
        Ok(())
    }
}

impl MailHandler for MailFiling {
    type Recipient = FilingRecipient;

    async fn recipient(&self, address: &str, _: &Sender) -> Result<FilingRecipient, RecipientError> {
        let identity = (self.identity)().ok_or(RecipientError::NotReady)?;
        let bare = address.eq_ignore_ascii_case(POSTMASTER).then(|| format!("{POSTMASTER}@{}", identity.domain));
        let address = bare.as_deref().unwrap_or(address);
        let address = Address::parse(address).map_err(|_| RecipientError::Unknown)?;
        let is_ours = address.domain() == identity.domain;
        let is_postmaster = is_ours && address.local().eq_ignore_ascii_case(POSTMASTER);
        let is_sender = is_ours
            && address.domain() == identity.from.domain()
            && address.local().eq_ignore_ascii_case(identity.from.local());
        // A mailbox for postmaster keeps more than the reports, which are read for it as well.
        if is_sender && !is_postmaster {
            return Ok(FilingRecipient::Reports);
        }
        // Without all records, a mailbox that is not here may exist (rule D13).
        if !self.ready() {
            return Err(RecipientError::NotReady);
        }
        let found = find(&self.mailstore, &address, &identity.domain).await;
        let Some(mailbox) = found.map_err(|_| RecipientError::NotReady)? else {
            return match (is_sender, is_postmaster, is_ours) {
                (true, ..) => Ok(FilingRecipient::Reports),
                (_, true, _) => Err(RecipientError::NoPostmaster),
                (.., true) => Err(RecipientError::Unknown),
                (.., false) => Err(RecipientError::RelayingDenied),
            };
        };
        if !self.mailstore.takes_messages(&mailbox) {
            return Err(RecipientError::Disabled);
        }
        match self.mailstore.is_full(&mailbox).await {
            Ok(false) => Ok(FilingRecipient::Mailbox(mailbox.id)),
            Ok(true) => Err(RecipientError::MailboxFull),
            Err(_) => Err(RecipientError::NotReady),
        }
    }

    async fn deliver(&self, mail: Mail<FilingRecipient>) -> Vec<Delivery> {
        let parsed = match Parsed::of(self, &mail).await {
            Ok(parsed) => parsed,
            Err(end) => {
                let of = |to: &FilingRecipient| match (to, &end) {
                    // A refusal could begin a loop.
                    (FilingRecipient::Reports, Delivery::Refused { .. }) => report_read(),
                    _ => end.clone(),
                };
                return mail.recipients.iter().map(of).collect();
            }
        };
        let report = parsed.incoming.bounce.as_ref();
        let mailbox = |recipient: &FilingRecipient| match recipient {
            // Some systems report to the sender in the header.
            FilingRecipient::Mailbox(mailbox) if report.is_none() => Some(*mailbox),
            FilingRecipient::Mailbox(_) | FilingRecipient::Reports => None,
        };
        let filed = self.file(mail.recipients.iter().filter_map(mailbox).collect(), &parsed).await;
        let read = self.read_report(report).await;
        let mut deliveries = Vec::with_capacity(mail.recipients.len());
        for (index, recipient) in mail.recipients.iter().enumerate() {
            let Some(mailbox) = mailbox(recipient) else {
                deliveries.push(read.clone());
                continue;
            };
            let filed = filed.get(&mailbox).cloned();
            let filed = filed.unwrap_or_else(|| later("the mail was not filed".to_owned()));
            deliveries.push(match mail.reports.get(index).and_then(Option::as_ref) {
                Some(wanted) => self.report(mailbox, &parsed, &mail, wanted, filed).await,
                None => filed,
            });
        }
        deliveries
    }

    /// The tries of a host are counted together, apart from those of a telephone number.
    async fn check_password(&self, user: &str, password: &str, client: IpAddr) -> PasswordCheck {
        match self.mailstore.check_pin_of_number(user, &Pii::new(password.to_owned()), &source(client)).await {
            Ok(PinCheck::Ok { must_change: false }) => PasswordCheck::Right,
            Ok(PinCheck::Ok { must_change: true } | PinCheck::Wrong) => PasswordCheck::Wrong,
            Ok(PinCheck::BackOff { .. }) | Err(_) => PasswordCheck::Later,
        }
    }

    fn ready(&self) -> bool {
        self.mailstore.has_all_records() && self.mailstore.accepts_messages()
    }
}

/// A mail that was read once for all its recipients.
struct Parsed {
    incoming: Incoming,
    /// Address of the envelope sender; empty for none.
    sender: String,
    received: Timestamp,
    /// The mailbox of a sender that counts as a user.
    user: Option<Mailbox>,
    /// Number by which a sender at a location is dialled.
    remote: Option<String>,
}

impl Parsed {
    /// `Err`: the delivery of a mail that cannot be read.
    async fn of(filing: &MailFiling, mail: &Mail<FilingRecipient>) -> Result<Self, Delivery> {
        let bytes = mail.bytes.clone();
        let read = tokio::task::spawn_blocking(move || incoming::read(&bytes)).await;
        let incoming = read.map_err(|_| later("the node is stopping".to_owned()))?;
        let incoming = incoming.map_err(|error| refused("5.6.0", &error.to_string()))?;
        let user = match (&mail.trust.user, mail.trust.trusted_network) {
            (Some(user), _) => filing.mailstore.find_by_number(user).await.ok().flatten(),
            (None, true) => match (&incoming.from, (filing.identity)()) {
                (Some(from), Some(identity)) => {
                    find(&filing.mailstore, from, &identity.domain).await.ok().flatten()
                }
                _ => None,
            },
            (None, false) => None,
        };
        // As for users, the header is believed only if it comes from a trusted network.
        let from = incoming.from.as_ref().filter(|_| user.is_none() && mail.trust.trusted_network);
        let remote = from.and_then(|from| number_of_sender(&filing.mailstore.locations().ok()?, from));
        Ok(Self { incoming, sender: mail.sender.clone().unwrap_or_default(), received: wall(), user, remote })
    }

    fn message(&self, codec: Codec) -> NewMessage {
        let Incoming { from, from_name, subject, text, importance, sensitivity, .. } = &self.incoming;
        let address = from.as_ref().map_or_else(|| self.sender.clone(), ToString::to_string);
        let shown = if from_name.trim().is_empty() { &address } else { from_name };
        let name = self.user.as_ref().map_or_else(|| Pii::new(line(shown)), |user| user.name.clone());
        NewMessage {
            received: self.received,
            caller: self.user.as_ref().map(|user| &user.number).or(self.remote.as_ref()).cloned().map(Pii::new),
            caller_name: Some(name),
            codec,
            urgent: *importance == Importance::High,
            private: *sensitivity != Sensitivity::None,
            mail: Some(MailOrigin {
                sender: Pii::new(line(&address)),
                subject: Pii::new(line(subject)),
                text: Pii::new(text.chars().take(LONGEST_TEXT).collect()),
            }),
        }
    }
}

/// A mail on its way into a mailbox.
struct Filing {
    owner: Mailbox,
    /// Longest message of the mailbox, in milliseconds.
    max_ms: u64,
    delivery: [u8; 16],
    /// The messages.
    filed: Vec<String>,
    /// Reason for which the first of its sound files cannot be read.
    unreadable: Option<String>,
    /// Number of sound files left out because the mailbox is full.
    beyond_quota: usize,
}

impl Filing {
    fn end(self) -> Delivery {
        let full = (self.beyond_quota > 0).then(|| format!("{} left out: the mailbox is full", self.beyond_quota));
        match self.filed.is_empty() {
            false => {
                let detail: Vec<_> = self.filed.into_iter().chain(full).collect();
                Delivery::Accepted { detail: detail.join(", ") }
            }
            true if full.is_some() => later("the mailbox is full".to_owned()),
            true => refused("5.6.1", &self.unreadable.unwrap_or_else(|| NO_SOUND.to_owned())),
        }
    }
}

/// The source of a client's tries, one of 65,536: the store keeps a record of each counted one until the purge.
fn source(client: IpAddr) -> String {
    let hash = blake3::derive_key("twinbox smtp sign-in", host(client).to_string().as_bytes());
    format!("smtp {:02x}{:02x}", hash[0], hash[1])
}

/// The message of the sound file at `index` of a delivery.
fn message_id(delivery: [u8; 16], index: usize) -> MessageId {
    MessageId(u128::from_be_bytes(delivery).wrapping_add(index as u128))
}

/// The effect whose mail has this Message-ID: the name of a mail with a part of a recording goes on after a full stop.
fn effect_of(message_id: &str, domain: &str) -> Option<EffectId> {
    let (local, at) = message_id.rsplit_once('@')?;
    let id = local.split_once('.').map_or(local, |(id, _)| id);
    at.eq_ignore_ascii_case(domain).then(|| id.parse().ok()).flatten()
}

/// The header of a mail, or the lines at its beginning that are short enough together.
fn header(mail: &[u8]) -> String {
    let beginning = mail.get(..LONGEST_HEADER).unwrap_or(mail);
    let whole = beginning.windows(4).position(|part| part == b"\r\n\r\n");
    let last = || beginning.windows(2).rposition(|part| part == b"\r\n");
    let end = whole.or_else(last).map_or(0, |at| at.saturating_add(2));
    String::from_utf8_lossy(beginning.get(..end).unwrap_or_default()).into_owned()
}

const NO_SOUND: &str = "the mail has no sound file: attach WAV, MP3 or M4A";

fn report_read() -> Delivery {
    Delivery::Accepted { detail: "report read".to_owned() }
}

fn refused(enhanced: &str, text: &str) -> Delivery {
    Delivery::Refused { code: 554, enhanced: enhanced.to_owned(), text: line(text) }
}

fn later(text: String) -> Delivery {
    Delivery::Later { text: line(&text) }
}

/// One line of bounded length.
fn line(text: &str) -> String {
    text.chars().take(LONGEST_LINE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
