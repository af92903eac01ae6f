//! Carries message lights from the notifier to the SIP doors: unsolicited NOTIFYs leave here, those in dialogs leave
//! through the node that holds the dialog (rule E2).

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use tracing::debug;
use twinbox_calls::{Calls, NotifyError};
use twinbox_clock::BootInstant;
use twinbox_ids::{Epoch, MailboxId, NodeName};
use twinbox_mailbox::Lights;
use twinbox_notifier::{Guard, Light, LightSender, SendError};
use twinbox_roles::Duty;
use twinbox_sip::mwi::Summary;
use twinbox_wire::admin::{LightChange, node_info_client::NodeInfoClient};

use crate::{members::Others, node::Node};

/// How long another node may take to tell its subscribers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The way to the lamps.
#[derive(Clone)]
pub struct Lamps {
    node: Arc<Node>,
    others: Arc<Others>,
}

impl Lamps {
    /// From this node, and by way of the others.
    pub fn new(node: Arc<Node>, others: Arc<Others>) -> Self {
        Self { node, others }
    }
}

impl LightSender for Lamps {
    async fn send(&self, light: &Light, epoch: &Epoch, guard: Guard) -> Result<(), SendError> {
        let calls = open_door(&self.node)?;
        let (body, epoch) = (body(light.lights), epoch.to_string());
        let mut outcome = Ok(());
        for trunk in calls.notify_trunks() {
            let guard = guard.clone();
            let sent =
                calls.send_unsolicited_notify(&trunk, &light.number, &body, &epoch, move || guard.allows()).await;
            if let Err(error) = sent {
                debug!(trunk, %error, "a message light was not delivered");
                outcome = Err(send_error(error));
            }
        }
        outcome
    }

    async fn changed(&self, light: &Light, epoch: &Epoch, guard: Guard) -> Result<(), SendError> {
        let margin = self.node.config.cluster.timing.margin;
        let change = LightChange {
            mailbox: light.mailbox.to_bytes().to_vec().into(),
            number: light.number.clone(),
            new: light.lights.new,
            saved: light.lights.saved,
            generation: epoch.generation,
            epoch_number: epoch.number,
            holder: epoch.node.to_string(),
            // The gate closes that long before the lease is out.
            valid_ms: u32::try_from(margin.as_millis()).unwrap_or(u32::MAX),
        };
        let mut asked = JoinSet::new();
        for (_, channel) in self.others.nodes() {
            if !guard.allows() {
                return Err(SendError::NotHolder);
            }
            asked.spawn(ask(channel, change.clone()));
        }
        let mut outcome = tell(&self.node, light.mailbox, light.lights, epoch, move || guard.allows()).await;
        for answer in asked.join_all().await {
            // A node that is away takes its subscriptions with it: its subscribers come to another one, and get
            // the full state there.
            if let Err(status) = answer
                && !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
            {
                outcome = Err(SendError::Unreachable(status.message().to_owned()));
            }
        }
        outcome
    }
}

async fn ask(channel: Channel, change: LightChange) -> Result<(), Status> {
    let mut client = NodeInfoClient::new(channel);
    match tokio::time::timeout(ANSWER_WITHIN, client.tell_subscribers(change)).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Does for the holder of the duty what it asked: tells the subscribers whose dialogs are here. Refused from a
/// holder of an older epoch than this node has seen; what the epoch allows ends `valid_ms` after the receipt.
pub async fn tell_for(node: &Node, from: &NodeName, change: LightChange) -> Result<(), Status> {
    let received = BootInstant::now();
    let invalid = |what: &str| Status::invalid_argument(format!("a light change without {what}"));
    let mailbox = MailboxId::from_slice(&change.mailbox).ok_or_else(|| invalid("a mailbox"))?;
    let holder: NodeName = change.holder.parse().map_err(|_| invalid("a holder"))?;
    if holder != *from {
        return Err(Status::permission_denied(format!("{from} does not speak for {holder}")));
    }
    let epoch = Epoch { generation: change.generation, number: change.epoch_number, node: holder };
    let view = node.roles.watch();
    let newest = view.borrow().duties.iter().find(|d| d.duty == Duty::Notifier).and_then(|duty| duty.epoch.clone());
    if newest.is_some_and(|newest| newest > epoch) {
        return Err(Status::permission_denied(format!("epoch {epoch} is over")));
    }
    let until = received + Duration::from_millis(u64::from(change.valid_ms));
    let lights = Lights { new: change.new, saved: change.saved };
    tell(node, mailbox, lights, &epoch, move || BootInstant::now() < until)
        .await
        .map_err(|error| Status::aborted(error.to_string()))
}

/// Tells the subscribers whose dialogs this node holds.
async fn tell(
    node: &Node,
    mailbox: MailboxId,
    lights: Lights,
    epoch: &Epoch,
    guard: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Result<(), SendError> {
    let calls = open_door(node)?;
    let (body, epoch) = (body(lights), epoch.to_string());
    let mut outcome = Ok(());
    for subscription in calls.subscriptions(mailbox) {
        match calls.notify_in_dialog(subscription.id, &body, &epoch, guard.clone()).await {
            // Whoever hung up, or does not know the dialog any more, is not waiting for a light.
            Ok(()) | Err(NotifyError::Ended(_) | NotifyError::Refused(481)) => {}
            Err(error) => outcome = Err(send_error(error)),
        }
    }
    outcome
}

fn open_door(node: &Node) -> Result<Calls, SendError> {
    node.calls().ok_or_else(|| SendError::Unreachable("the SIP door is not open".to_owned()))
}

fn body(lights: Lights) -> String {
    Summary { account: None, new: lights.new, old: lights.saved }.body()
}

fn send_error(error: NotifyError) -> SendError {
    match error {
        NotifyError::NotHolder => SendError::NotHolder,
        NotifyError::Refused(_) => SendError::Refused(error.to_string()),
        error => SendError::Unreachable(error.to_string()),
    }
}
