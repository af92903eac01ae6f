//! Alarms and events, for administrators on this machine and operators on others.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_alarms::{AckError, Alarm, Alarms, Code, FollowError, Follower, IdPrefix, InvalidId, Item, Since};
use twinbox_mailstore::Mailstore;
use twinbox_pki::operator_of;
use twinbox_settings_service::SharedSettings;
use twinbox_wire::events::{
    self, AlarmAcknowledgeReply, AlarmAcknowledgeRequest, AlarmListReply, AlarmListRequest, FollowReply,
    FollowRequest,
    events_server::{Events, EventsServer},
};

use crate::admin::acknowledged;

/// Maximum number of replies in transit to a reader; further events of a slow reader stay in the records.
const UNDER_WAY: usize = 32;
/// Maximum number of ids in one request.
const MOST_IDS: usize = 1_024;

/// Serves administrators.
pub struct EventService {
    alarms: Alarms,
    settings: SharedSettings,
    mailstore: Mailstore,
}

impl EventService {
    /// For a node with the receivers of these settings.
    pub fn new(alarms: Alarms, settings: SharedSettings, mailstore: Mailstore) -> Self {
        Self { alarms, settings, mailstore }
    }

    /// Converts it into a tonic service.
    pub fn server(self) -> EventsServer<Self> {
        EventsServer::new(self)
    }

    /// The detail of an alarm. Alarms reach logs, so that one about a mailbox has no number: administrators see it here.
    fn detail(&self, alarm: &Alarm) -> String {
        let mailbox = alarm.subject.parse().ok().filter(|_| alarm.code == Some(Code::MailboxSyncHeldBack));
        match mailbox.map(|mailbox| self.mailstore.get_now(mailbox)) {
            Some(Ok(Some(mailbox))) => format!("mailbox {}: {}", mailbox.number, alarm.detail),
            _ => alarm.detail.clone(),
        }
    }

    fn show(&self, alarm: Alarm) -> events::Alarm {
        let told = self.settings.channels().into_iter().filter(|channel| alarm.due(*channel).is_empty());
        events::Alarm {
            detail: self.detail(&alarm),
            told: told.map(|channel| channel.word().to_owned()).collect(),
            id: alarm.id.to_string(),
            severity: alarm.code.map_or("", |code| code.severity().word()).to_owned(),
            node: alarm.node.to_string(),
            state: alarm.state().word().to_owned(),
            first_ms: alarm.first.0,
            raised_ms: alarm.raised.0,
            last_seen_ms: alarm.seen.0,
            count: alarm.count,
            summary: alarm.code.map_or("It is of a later release.", |code| code.summary()).to_owned(),
            remedy: alarm.code.map_or("Upgrade this node.", |code| code.remedy()).to_owned(),
            cleared_ms: alarm.cleared.map_or(0, |at| at.0),
            acknowledged_ms: alarm.acknowledged.as_ref().map_or(0, |(_, at)| at.0),
            acknowledged_by: alarm.acknowledged.map(|(by, _)| by).unwrap_or_default(),
            code: alarm.word,
            subject: alarm.subject,
        }
    }
}

#[tonic::async_trait]
impl Events for EventService {
    async fn alarm_list(&self, request: Request<AlarmListRequest>) -> Result<Response<AlarmListReply>, Status> {
        let AlarmListRequest { all, limit, after } = request.into_inner();
        let alarms = self.alarms.list().map_err(|error| Status::internal(error.to_string()))?;
        let alarms = alarms.into_iter().filter(|alarm| all || alarm.is_open()).map(|alarm| (cursor(&alarm), alarm));
        let Part { items, next } = part(limit, &after, alarms, |alarm| Ok::<_, Status>(self.show(alarm)))?;
        Ok(Response::new(AlarmListReply { alarms: items, next }))
    }

    async fn alarm_acknowledge(
        &self,
        request: Request<AlarmAcknowledgeRequest>,
    ) -> Result<Response<AlarmAcknowledgeReply>, Status> {
        // The name of an operator on another machine is authenticated.
        let operator = operator_of(&request).map(|(operator, _)| operator.name.to_string());
        let AlarmAcknowledgeRequest { ids, by } = request.into_inner();
        if ids.is_empty() || ids.len() > MOST_IDS {
            return Err(Status::invalid_argument(format!("give 1 to {MOST_IDS} ids of alarms")));
        }
        let ids: Vec<IdPrefix> = ids
            .iter()
            .map(|id| id.parse())
            .collect::<Result<_, InvalidId>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let by = operator.unwrap_or(by);
        let (alarms, how) = self.alarms.acknowledge(ids, &by).await.map_err(|error| match error {
            AckError::None { .. } => Status::not_found(error.to_string()),
            AckError::Several { .. } => Status::failed_precondition(error.to_string()),
            AckError::Stopping => Status::unavailable(error.to_string()),
            AckError::Store(_) => Status::internal(error.to_string()),
        })?;
        info!(count = alarms.len(), "administrator acknowledges alarms");
        let alarms = alarms.into_iter().map(|alarm| self.show(alarm)).collect();
        Ok(Response::new(AlarmAcknowledgeReply { alarms, acknowledged: acknowledged(&how) }))
    }

    type FollowStream = ReceiverStream<Result<FollowReply, Status>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let FollowRequest { since, follow } = request.into_inner();
        let since = match since.as_str() {
            "" => Since::Start,
            "now" => Since::Now,
            _ => Since::Cursor(since),
        };
        let follower = self.alarms.follow(&since).map_err(|error| match error {
            FollowError::Cursor(_) => Status::invalid_argument(error.to_string()),
            FollowError::TooMany => Status::resource_exhausted(error.to_string()),
            FollowError::Store(_) => Status::failed_precondition(error.to_string()),
        })?;
        let (replies, stream) = mpsc::channel(UNDER_WAY);
        tokio::spawn(tell(follower, follow, replies));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// List order: by state, then higher severity, then later.
fn cursor(alarm: &Alarm) -> String {
    let severity = alarm.code.map_or(0, |code| code.severity() as u8 + 1);
    format!("{}{:03}{:020}.{}", alarm.state() as u8, u8::MAX - severity, u64::MAX - alarm.raised.0, alarm.id)
}

/// Runs until the reader has gone or all events are sent.
async fn tell(mut follower: Follower, follow: bool, replies: mpsc::Sender<Result<FollowReply, Status>>) {
    let reply = |cursor: String| FollowReply { cursor, ..FollowReply::default() };
    let mut next = Some(reply(follower.cursor().to_string()));
    while let Some(reply_now) = next.take() {
        if replies.send(Ok(reply_now)).await.is_err() {
            return;
        }
        let item = match follow {
            true => tokio::select! {
                item = follower.next() => item,
                () = replies.closed() => None,
            },
            false => follower.try_next(),
        };
        let cursor = || follower.cursor().to_string();
        next = item.map(|item| match item {
            Item::Event(event) => FollowReply { event: Some(event.show()), ..reply(cursor()) },
            Item::Gap { node, missing } => {
                let gap = events::Gap { node: node.to_string(), missing: missing.unwrap_or(0) };
                FollowReply { gap: Some(gap), ..reply(cursor()) }
            }
        });
    }
}
