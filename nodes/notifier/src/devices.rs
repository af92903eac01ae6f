//! Notifications over HTTP: webhooks of users, and text messages through a gateway.

use std::{os::fd::BorrowedFd, path::PathBuf, sync::Arc};

use serde_json::json;
use twinbox_clock::wall;
use twinbox_devices::{
    Kind, LinkBase, link,
    webhook::{Body, Event, SIGNATURE_HEADER, signature},
};
use twinbox_duty::{ActOutcome, Channels, DueNotification, Notifications, Prepared};
use twinbox_gate::Permit;
use twinbox_http_post::{HttpTarget, Owner, Post, PostFailure, TargetError};
use twinbox_ids::{EffectId, Epoch, MessageId, Pii, Timestamp};
use twinbox_mailstore::{MailError, time};
use twinbox_outbox::{Channel, Effect, NewEffect, Transition};

/// Pause when the store cannot be read or written, in milliseconds.
const STORE_PAUSE_MS: u64 = 5_000;
/// Pause while this node cannot use the gateway for text messages, in milliseconds: a corrected one, or the next holder of
/// the duty, sends what waits.
const UNUSABLE_PAUSE_MS: u64 = 30_000;

/// Reason for administrators that does not show the URL: it may contain a secret.
const WRONG_URL: &str =
    "the device's URL cannot be used: set url= to http://HOST/PATH or https://HOST/PATH, without a password";

/// Gateway that takes text messages as JSON: `{"to": "+49…", "text": "…", "id": "…"}`.
#[derive(Debug, Clone)]
pub struct SmsGateway(HttpTarget);

impl SmsGateway {
    /// Gateway at this URL; see [`HttpTarget::new`].
    pub fn new(url: &str, authorization: Option<&str>, authorities: Option<PathBuf>) -> Result<Self, TargetError> {
        HttpTarget::new(url, authorization, authorities).map(Self)
    }
}

/// Text messages out of a node.
#[derive(Debug, Clone, Default)]
pub enum SmsOut {
    /// There is no gateway: text messages are dead letters.
    #[default]
    Off,
    /// There is one, and this node cannot use it for this reason: text messages wait.
    Unusable(String),
    /// The gateway.
    Ready(SmsGateway),
}

/// The settings of these channels, as they are whenever a function is called.
#[derive(Clone)]
pub struct HttpSettings {
    /// Gateway for text messages.
    pub sms: Arc<dyn Fn() -> SmsOut + Send + Sync>,
    /// URL with which links to recordings begin; `None`: notifications have no links.
    pub links: Arc<dyn Fn() -> Option<LinkBase> + Send + Sync>,
}

/// A request that is ready to leave.
pub struct HttpWork {
    target: HttpTarget,
    body: String,
    /// Key of the signature, of webhooks.
    secret: Option<Pii<String>>,
    due: DueNotification,
}

/// The notifier's channels.
pub struct HttpChannels {
    notifications: Notifications,
    settings: HttpSettings,
}

impl HttpChannels {
    /// Channels for these notifications.
    pub fn new(notifications: Notifications, settings: HttpSettings) -> Self {
        Self { notifications, settings }
    }

    /// The link to the recording, if the device wants one and the class of service lets it leave.
    async fn link(&self, due: &DueNotification) -> Result<Option<Pii<String>>, MailError> {
        let Some((base, message)) = (self.settings.links)().zip(due.message.as_ref()) else { return Ok(None) };
        if !due.audio_allowed || !link::has_links(&due.device) {
            return Ok(None);
        }
        let key = self.notifications.mailstore().link_key_or_new(due.mailbox.id, due.device.id).await?;
        Ok(key.and_then(|key| link::url(&base, &due.device, &key, message.id, time(wall()))))
    }

    /// The request of a notification.
    fn request(
        &self,
        effect: &Effect,
        due: DueNotification,
        audio_url: Option<Pii<String>>,
    ) -> Result<HttpWork, Refused> {
        let id = effect.receiver_id().to_string();
        match &due.device.kind {
            Kind::Webhook { url, secret, .. } => {
                let target = HttpTarget::of_user(url.reveal()).map_err(|_| never(WRONG_URL))?;
                let event = match (effect.new.cause.transition, effect.new.repeat) {
                    (Transition::Test, _) => Event::Test,
                    _ if !due.content.earlier.is_empty() => Event::Digest,
                    (_, 0) => Event::New,
                    _ => Event::Reminder,
                };
                let latest = &due.content.latest;
                let body = Body {
                    event,
                    id,
                    mailbox: due.mailbox.id,
                    number: due.mailbox.number.clone(),
                    message: due.message.as_ref().map_or(MessageId(0), |message| message.id),
                    caller: latest.caller.clone(),
                    caller_name: latest.caller_name.clone(),
                    received: latest.received,
                    seconds: latest.seconds,
                    urgent: latest.urgent,
                    audio_url,
                };
                Ok(HttpWork { target, body: body.to_json(), secret: Some(secret.clone()), due })
            }
            Kind::SmsHttp { number } => {
                let gateway = match (self.settings.sms)() {
                    SmsOut::Ready(gateway) => gateway,
                    SmsOut::Unusable(reason) => return Err(Refused::ForNow(reason)),
                    SmsOut::Off => return Err(never("there is no gateway for text messages: set sms.url")),
                };
                let form = due.device.kind.name().form().ok_or_else(|| never("a text message has no form"))?;
                let text = self.notifications.templates().compose(form, due.language(), &due.content, &due.zone);
                let text = text.map_err(|error| never(error.to_string()))?;
                let body = json!({ "to": number.reveal(), "text": text.body.reveal(), "id": id }).to_string();
                Ok(HttpWork { target: gateway.0, body, secret: None, due })
            }
            Kind::Mail { .. } | Kind::Pager { .. } | Kind::SmsMail { .. } => {
                Err(never("the device was replaced by one of another kind"))
            }
        }
    }
}

impl Channels for HttpChannels {
    type Work = HttpWork;

    fn serves(&self, channel: Channel) -> bool {
        !channel.is_mail()
    }

    fn begins(&self, _: &Epoch) {
        self.notifications.begin();
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<HttpWork> {
        match self.notifications.prepare(effect).await {
            Prepared::Act(due) => {
                let device = due.device.clone();
                let link = match self.link(&due).await {
                    Ok(link) => link,
                    Err(error) => {
                        return Prepared::Later(Timestamp(wall().0 + STORE_PAUSE_MS), error.to_string());
                    }
                };
                match self.request(effect, due, link) {
                    Ok(work) => Prepared::Act(work),
                    Err(Refused::ForNow(reason)) => {
                        Prepared::Later(Timestamp(wall().0 + UNUSABLE_PAUSE_MS), reason)
                    }
                    Err(Refused::Never(reason)) => {
                        Prepared::Impossible(reason, self.notifications.refused(effect, &device).await)
                    }
                }
            }
            Prepared::Unwanted(reason) => Prepared::Unwanted(reason),
            Prepared::Later(at, reason) => Prepared::Later(at, reason),
            Prepared::Impossible(reason, next) => Prepared::Impossible(reason, next),
        }
    }

    fn covers(&self, work: &HttpWork) -> Vec<EffectId> {
        work.due.covers()
    }

    fn route(&self, _: &Effect, work: &HttpWork) -> String {
        work.target.host().to_owned()
    }

    async fn act(&self, effect: &Effect, work: HttpWork, permit: Arc<Permit>) -> ActOutcome {
        let mut headers = vec![("idempotency-key", effect.receiver_id().to_string())];
        if let Some(secret) = &work.secret {
            headers.push((SIGNATURE_HEADER, signature(secret, &work.body, time(wall()))));
        }
        let post = Post { content_type: "application/json", headers, body: work.body.into() };
        let own = |socket: BorrowedFd<'_>| permit.own_opaque(socket);
        let owner: Owner<'_> = &own;
        match work.target.post(&post, owner, permit.lost()).await {
            Ok(()) => {
                let next = self.notifications.delivered(effect, &work.due).await;
                ActOutcome::Done("taken".to_owned(), next)
            }
            Err(failure) => match end_of(failure, effect.new.channel) {
                Ok(outcome) => outcome,
                Err(GivenUp::Unknown(reason)) => {
                    ActOutcome::GivenUp(reason, self.notifications.given_up(effect, &work.due).await)
                }
                Err(GivenUp::Refused(reason)) => {
                    ActOutcome::Refused(reason, self.notifications.refused(effect, &work.due.device).await)
                }
            },
        }
    }

    async fn abandoned(&self, effect: &Effect) -> Result<Vec<NewEffect>, MailError> {
        self.notifications.abandoned(effect).await
    }

    async fn deletes_message(&self, effect: &Effect) -> Result<bool, MailError> {
        self.notifications.deletes_message(effect).await
    }
}

/// Reason why there is no request for a notification.
enum Refused {
    /// There will be none.
    Never(String),
    /// This node cannot use the gateway now.
    ForNow(String),
}

fn never(reason: impl Into<String>) -> Refused {
    Refused::Never(reason.into())
}

/// Reason why an effect is given up after a request.
#[derive(Debug)]
enum GivenUp {
    /// The receiver may have it, and could not tell a repeat.
    Unknown(String),
    /// The receiver refused it.
    Refused(String),
}

/// The outcome of a failed request; `Err` if no other follows.
fn end_of(failure: PostFailure, channel: Channel) -> Result<ActOutcome, GivenUp> {
    match failure {
        PostFailure::Unanswered(reason) | PostFailure::Unclear(reason) if channel.at_most_once() => {
            Err(GivenUp::Unknown(format!("{reason}; it may have arrived, and its receiver cannot tell a repeat")))
        }
        PostFailure::Unanswered(reason) | PostFailure::Unclear(reason) => Ok(ActOutcome::Unclear(reason)),
        PostFailure::Unreachable(reason) => Ok(ActOutcome::Unreachable(reason)),
        PostFailure::Later(reason) => Ok(ActOutcome::Failed(reason)),
        PostFailure::Refused(reason) => Err(GivenUp::Refused(reason)),
        PostFailure::NotHolder => Ok(ActOutcome::NotHolder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_message_that_may_have_arrived_is_not_repeated_and_a_webhook_is() {
        type Failure = fn(String) -> PostFailure;
        let failures: [(Failure, &str, &str); 5] = [
            (PostFailure::Unanswered, "unknown", "unclear"),
            (PostFailure::Unclear, "unknown", "unclear"),
            (PostFailure::Later, "failed", "failed"),
            (PostFailure::Unreachable, "unreachable", "unreachable"),
            (PostFailure::Refused, "refused", "refused"),
        ];
        for (failure, text, hook) in failures {
            for (channel, expected) in [(Channel::SmsHttp, text), (Channel::Webhook, hook)] {
                let end = match end_of(failure("gateway: 502".to_owned()), channel) {
                    Err(GivenUp::Unknown(_)) => "unknown",
                    Err(GivenUp::Refused(_)) => "refused",
                    Ok(ActOutcome::Unclear(_)) => "unclear",
                    Ok(ActOutcome::Failed(_)) => "failed",
                    Ok(ActOutcome::Unreachable(_)) => "unreachable",
                    Ok(other) => panic!("{other:?}"),
                };
                assert_eq!(end, expected, "{channel}");
            }
        }
    }
}
