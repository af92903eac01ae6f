//! Requests of administrators, on a Unix socket that only this user may open.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{error, info};
use twinbox_admin_kit::{Part, part, part_of_sorted};
use twinbox_enrollment::{Host, Tokens, certificates::Authorities};
use twinbox_ids::{ClassId, MailboxId, NodeName, Pii};
use twinbox_mailbox::{Mailbox, NewMailbox, UserAddress};
use twinbox_mailstore::{Acknowledgement, CreateError, MailError, Mailstore, Mark, Message, PinError};
use twinbox_replication_admin::StorageService;
use twinbox_roles::{CommandError, DutyState, MemberKind, Order, OrderId, Setting};
use twinbox_settings_service::SettingsService;
use twinbox_wire::admin::{
    self, AudioPart, ClusterStatusReply, ClusterStatusRequest, DeactivateRequest, Done, DutyListReply,
    DutyListRequest, MessageListReply, MessageListRequest, MessageRequest, NodeRequest, ServiceListReply,
    ServiceListRequest, ServiceRestartRequest, User, UserAddRequest, UserChanged, UserListReply, UserListRequest,
    UserPinReply, UserRenumberRequest, UserRequest, UserSetPinRequest,
    admin_server::{Admin, AdminServer},
};

use crate::{
    AdminHandles, backup, delivery,
    directory::{self, DirectoryNames},
    events::EventService,
    mailbox_sync,
    messages::shown,
    node_info::NodeFacts,
    operators::Operators,
    provisioning, reports, sending, services,
    socket::AdminSocket,
    steering, timetable,
};

/// Bytes of a WAV file in one message.
pub(crate) const PART: usize = 64 * 1024;

/// Serves administrators.
pub struct AdminService {
    node: AdminHandles,
    facts: Arc<NodeFacts>,
    host: Arc<Host>,
}

impl AdminService {
    /// Creates the service for this node.
    pub fn new(node: AdminHandles, facts: Arc<NodeFacts>, host: Arc<Host>) -> Self {
        Self { node, facts, host }
    }

    /// Serves on the socket, and to operators of other machines, until stopped; then removes the socket.
    pub fn serve(
        self,
        socket: AdminSocket,
        operators: Operators,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move {
            let AdminSocket { listener, path } = socket;
            let provisioning = provisioning::ProvisioningService::new(self.node.clone()).server();
            let tokens = Tokens::new(self.host.clone()).server();
            let authorities = Authorities::new(self.host.clone()).server();
            let steering = steering::SteeringService::new(self.node.clone()).server();
            let delivery = delivery::DeliveryService::new(self.node.clone()).server();
            let sending = sending::SendingService::new(self.node.clone()).server();
            let directories = directory::DirectoryService::new(self.node.clone()).server();
            let mailbox_syncs = mailbox_sync::MailboxSyncService::new(self.node.clone()).server();
            let timetables = timetable::TimetableService::new(self.node.clone()).server();
            let reports = reports::ReportsService::new(self.node.clone()).server();
            let storage = StorageService::new(self.node.storage()).server();
            let backups = backup::BackupService::new(self.node.clone()).server();
            let roles = self.node.roles.clone();
            let (alarms, mailstore) = (self.node.alarms.clone(), self.node.mailstore.clone());
            let events = EventService::new(alarms, self.node.settings.clone(), mailstore).server();
            let settings = SettingsService::new(self.node.settings.clone()).server();
            // The same services for both: a service added here is also available to operators of other machines.
            let services = tonic::service::Routes::new(provisioning)
                .add_service(tokens)
                .add_service(authorities)
                .add_service(steering)
                .add_service(delivery)
                .add_service(sending)
                .add_service(directories)
                .add_service(mailbox_syncs)
                .add_service(timetables)
                .add_service(reports)
                .add_service(storage)
                .add_service(backups)
                .add_service(events)
                .add_service(settings)
                .add_service(AdminServer::new(self));
            let elsewhere = tokio::spawn(operators.serve(services.clone(), roles, stop.clone()));
            let served = tonic::transport::Server::builder()
                .add_routes(services)
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
                .await;
            elsewhere.abort();
            if let Err(error) = served {
                error!(%error, "the listener for administrators has ended");
            }
            // The socket may have been removed already.
            let _ = std::fs::remove_file(path);
        }
        .boxed()
    }

    async fn mailbox(&self, number: &str) -> Result<Mailbox, Status> {
        mailbox(&self.node, number).await
    }

    /// The PIN of a request, or a new one, which the reply names.
    fn pin_or_new(
        &self,
        given: String,
        number: &str,
        class: Option<ClassId>,
    ) -> Result<(Pii<String>, Option<Pii<String>>), Status> {
        if !given.is_empty() {
            return Ok((Pii::new(given), None));
        }
        let pin = self.node.mailstore.random_pin(number, class).map_err(mail)?;
        Ok((pin.clone(), Some(pin)))
    }

    async fn message(&self, request: &MessageRequest) -> Result<(Mailbox, Message), Status> {
        let mailbox = self.mailbox(&request.number).await?;
        let id =
            request.id.parse().map_err(|e: twinbox_ids::ParseIdError| Status::invalid_argument(e.to_string()))?;
        let message = self.node.mailstore.message(mailbox.id, id).await.map_err(mail)?;
        let message = message.ok_or_else(|| mail(MailError::NoMessage(id)))?;
        Ok((mailbox, message))
    }

    async fn mark(&self, request: &MessageRequest, mark: Mark) -> Result<Response<UserChanged>, Status> {
        let (mailbox, message) = self.message(request).await?;
        let acknowledgement = self.node.mailstore.mark(mailbox.id, message.id, mark).await.map_err(mail)?;
        Ok(changed(message.id, &acknowledgement))
    }

    /// Reads on a thread that may block: messages that were not counted yet are read to show a user.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Mailstore) -> Result<R, MailError> + Send + 'static,
    ) -> Result<R, Status> {
        let mailstore = self.node.mailstore.clone();
        let read = tokio::task::spawn_blocking(move || read(&mailstore)).await;
        read.map_err(|error| Status::internal(error.to_string()))?.map_err(internal)
    }
}

/// Mailbox with that number, or with that id: a mailbox that lost its number to another one in a split has only its id.
pub(crate) async fn mailbox(node: &AdminHandles, number: &str) -> Result<Mailbox, Status> {
    all_records(node)?;
    let mut found = node.mailstore.find_by_number(number).await.map_err(internal)?;
    if let (None, Ok(id)) = (&found, number.parse()) {
        found = node.mailstore.get(id).await.map_err(internal)?;
    }
    found.ok_or_else(|| {
        Status::not_found(format!("there is no mailbox {number}: 'twinbox user list' shows those there are"))
    })
}

fn user(mailstore: &Mailstore, directories: &DirectoryNames, mailbox: Mailbox) -> Result<User, MailError> {
    let usage = mailstore.usage_now(mailbox.id)?;
    let greetings = mailbox.greetings.iter().map(|(_, greeting)| greeting.blob.length).sum::<u64>();
    let cos = mailstore.class_name_of(&mailbox)?;
    let lost = mailstore.lost_addresses(&mailbox)?;
    let text = |address: &UserAddress| address.as_str().to_owned();
    Ok(User {
        id: mailbox.id.to_string(),
        number: mailbox.number,
        number_lost: mailbox.number_lost,
        name: mailbox.name.into_revealed(),
        timezone: mailbox.timezone,
        operator: mailbox.operator.unwrap_or_default(),
        must_change_pin: mailbox.pin.is_none_or(|pin| pin.must_change),
        new_messages: usage.counts.new,
        old_messages: usage.counts.saved,
        audio_bytes: usage.audio_bytes.saturating_add(greetings),
        cos,
        mail: mailbox.addresses.mail.as_ref().map(text).unwrap_or_default(),
        aliases: mailbox.addresses.aliases.iter().map(text).collect(),
        lost_addresses: lost.iter().map(text).collect(),
        disabled: mailbox.disabled,
        directory: mailbox.directory.and_then(|(id, _)| directories.get(&id).cloned()).unwrap_or_default(),
    })
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusReply>, Status> {
        let view = self.node.roles.watch().borrow().clone();
        let mut infos = self.node.members.ask().await;
        infos.insert(self.node.name.clone(), self.facts.show());
        let name = |name: &Option<NodeName>| name.as_ref().map(ToString::to_string).unwrap_or_default();
        let members = view
            .members
            .iter()
            .map(|member| {
                let publisher = view.publisher.as_ref() == Some(&member.name);
                let address = self.node.members.address(&member.name);
                let info = infos.remove(&member.name);
                let (status, reason) = steering::shown(member, info.as_ref());
                admin::Member {
                    name: member.name.to_string(),
                    kind: member.kind.to_string(),
                    role: match (member.kind, publisher) {
                        (MemberKind::Witness, _) => "witness",
                        (MemberKind::Node, true) => "publisher",
                        (MemberKind::Node, false) => "subscriber",
                    }
                    .to_owned(),
                    status,
                    reason,
                    duties: view
                        .duties
                        .iter()
                        .filter(|duty| duty.holder.as_ref() == Some(&member.name))
                        .map(|duty| duty.duty.to_string())
                        .collect(),
                    address: address.unwrap_or_default(),
                    info,
                    incarnation: member.incarnation.as_ref().map(ToString::to_string).unwrap_or_default(),
                }
            })
            .collect();
        Ok(Response::new(ClusterStatusReply {
            cluster: self.node.config.cluster.name.clone(),
            publisher: name(&view.publisher),
            leader: name(&view.leader),
            quorum: view.quorum,
            reason: view.reason.clone(),
            answered_by: self.node.name.to_string(),
            members,
            feature_level: view.feature_level,
            notes: steering::notes(&view).into_iter().chain(delivery::holds_note(&self.node.mailstore)).collect(),
            heirs: steering::heirs(&view),
            mode: Setting::Mode(view.settings.mode).value(),
        }))
    }

    async fn service_list(
        &self,
        request: Request<ServiceListRequest>,
    ) -> Result<Response<ServiceListReply>, Status> {
        services::list(&self.node, &self.facts, &request.into_inner().node).await
    }

    async fn service_restart(&self, request: Request<ServiceRestartRequest>) -> Result<Response<Done>, Status> {
        services::restart(&self.node, &self.facts, request.into_inner()).await
    }

    async fn activate(&self, request: Request<NodeRequest>) -> Result<Response<Done>, Status> {
        let node = node_name(&request)?;
        self.node.roles.activate(&node).await.map_err(command)?;
        info!(%node, "administrator activates node");
        Ok(Response::new(Done {}))
    }

    async fn deactivate(&self, request: Request<DeactivateRequest>) -> Result<Response<Done>, Status> {
        let DeactivateRequest { node, within_ms } = request.into_inner();
        let node: NodeName =
            node.parse().map_err(|e: twinbox_ids::ParseIdError| Status::invalid_argument(e.to_string()))?;
        let order = Order::Deactivate { name: node.clone(), within_ms };
        self.node.roles.order(OrderId(rand::random()), order).await.map_err(command)?;
        info!(%node, within_ms, "administrator deactivates node");
        Ok(Response::new(Done {}))
    }

    async fn duty_list(&self, _: Request<DutyListRequest>) -> Result<Response<DutyListReply>, Status> {
        let view = self.node.roles.watch().borrow().clone();
        let duties = view
            .duties
            .iter()
            .map(|duty| admin::Duty {
                duty: duty.duty.to_string(),
                holder: duty.holder.as_ref().map(ToString::to_string).unwrap_or_default(),
                epoch: duty.epoch.as_ref().map(ToString::to_string).unwrap_or_default(),
                state: match duty.state {
                    DutyState::Running => "running",
                    DutyState::Starting => "starting",
                    DutyState::Waiting => "waiting",
                    DutyState::Failed => "failed",
                }
                .to_owned(),
                reason: duty.reason.clone(),
            })
            .collect();
        Ok(Response::new(DutyListReply { duties }))
    }

    async fn user_add(&self, request: Request<UserAddRequest>) -> Result<Response<UserPinReply>, Status> {
        all_records(&self.node)?;
        let request = request.into_inner();
        let operator = Some(request.operator).filter(|operator| !matches!(operator.as_str(), "" | "-"));
        provisioning::check_fields(&request.name, operator.as_deref())?;
        let usual = self.node.mailstore.live().usual.clone();
        let (pin, made) = self.pin_or_new(request.pin, &request.number, usual.class)?;
        let timezone = if request.timezone.is_empty() { usual.timezone.clone() } else { request.timezone };
        let new = NewMailbox {
            number: request.number,
            name: Pii::new(request.name),
            pin: Some(pin),
            must_change: request.must_change,
            timezone,
            operator,
            addresses: provisioning::addresses(&self.node, &request.mail, &request.aliases)?,
            ..usual
        };
        let (mailbox, acknowledgement) = self.node.mailstore.create(new).await.map_err(create)?;
        Ok(with_pin(mailbox.id, &acknowledgement, made))
    }

    async fn user_list(&self, request: Request<UserListRequest>) -> Result<Response<UserListReply>, Status> {
        all_records(&self.node)?;
        let UserListRequest { limit, after } = request.into_inner();
        // By number, short ones first; a lost number is in the list twice.
        let part = self.read(move |mailstore| {
            let (users, directories) = (mailstore.by_number(&after)?, directory::names(mailstore)?);
            let shown = |found| user(mailstore, &directories, found);
            part_of_sorted(limit, users.map(|row| row.and_then(|(at, found)| Ok((at, shown(found)?)))))
        });
        let Part { items, next } = part.await?;
        Ok(Response::new(UserListReply { users: items, next }))
    }

    async fn user_show(&self, request: Request<UserRequest>) -> Result<Response<User>, Status> {
        let mailbox = self.mailbox(&request.into_inner().number).await?;
        let shown = self.read(move |mailstore| user(mailstore, &directory::names(mailstore)?, mailbox));
        Ok(Response::new(shown.await?))
    }

    async fn user_set_pin(&self, request: Request<UserSetPinRequest>) -> Result<Response<UserPinReply>, Status> {
        let request = request.into_inner();
        let mailbox = self.mailbox(&request.number).await?;
        let (new, made) = self.pin_or_new(request.pin, &mailbox.number, mailbox.class)?;
        let acknowledgement =
            self.node.mailstore.reset_pin(mailbox.id, &new, request.must_change).await.map_err(pin)?;
        Ok(with_pin(mailbox.id, &acknowledgement, made))
    }

    async fn user_remove(&self, request: Request<UserRequest>) -> Result<Response<UserChanged>, Status> {
        let mailbox = self.mailbox(&request.into_inner().number).await?;
        let acknowledgement = self.node.mailstore.remove(mailbox.id).await.map_err(mail)?;
        Ok(changed(mailbox.id, &acknowledgement))
    }

    async fn user_renumber(&self, request: Request<UserRenumberRequest>) -> Result<Response<UserChanged>, Status> {
        let UserRenumberRequest { number, to } = request.into_inner();
        let id = self.mailbox(&number).await?.id;
        let acknowledgement = self.node.mailstore.renumber(id, &to).await.map_err(create)?;
        Ok(changed(id, &acknowledgement))
    }

    async fn message_list(
        &self,
        request: Request<MessageListRequest>,
    ) -> Result<Response<MessageListReply>, Status> {
        let MessageListRequest { number, limit, after } = request.into_inner();
        let mailbox = self.mailbox(&number).await?;
        let messages = self.node.mailstore.messages(mailbox.id).await.map_err(internal)?;
        // Oldest first.
        let cursor = |message: &Message| format!("{:020}.{}", message.received.0, message.id);
        let messages = messages.into_iter().map(|message| (cursor(&message), message));
        let Part { items, next } = part(limit, &after, messages, |message| Ok::<_, Status>(shown(message)))?;
        Ok(Response::new(MessageListReply { messages: items, next }))
    }

    type MessageExportStream = tokio_stream::Iter<std::vec::IntoIter<Result<AudioPart, Status>>>;

    async fn message_export(
        &self,
        request: Request<MessageRequest>,
    ) -> Result<Response<Self::MessageExportStream>, Status> {
        let (_, message) = self.message(request.get_ref()).await?;
        let wav = bytes::Bytes::from(self.node.mailstore.wav(&message).await.map_err(mail)?);
        let parts: Vec<_> = (0..wav.len())
            .step_by(PART)
            .map(|at| Ok(AudioPart { data: wav.slice(at..wav.len().min(at + PART)) }))
            .collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn message_delete(&self, request: Request<MessageRequest>) -> Result<Response<UserChanged>, Status> {
        self.mark(request.get_ref(), Mark::Deleted).await
    }

    async fn message_undelete(&self, request: Request<MessageRequest>) -> Result<Response<UserChanged>, Status> {
        self.mark(request.get_ref(), Mark::Undeleted).await
    }
}

fn node_name(request: &Request<NodeRequest>) -> Result<NodeName, Status> {
    let name = &request.get_ref().node;
    name.parse().map_err(|e: twinbox_ids::ParseIdError| Status::invalid_argument(e.to_string()))
}

pub(crate) fn changed(id: impl std::fmt::Display, acknowledgement: &Acknowledgement) -> Response<UserChanged> {
    Response::new(UserChanged { id: id.to_string(), acknowledged: acknowledged(acknowledgement) })
}

fn with_pin(id: MailboxId, acknowledgement: &Acknowledgement, made: Option<Pii<String>>) -> Response<UserPinReply> {
    let pin = made.map(Pii::into_revealed).unwrap_or_default();
    Response::new(UserPinReply { id: id.to_string(), acknowledged: acknowledged(acknowledgement), pin })
}

/// Acknowledgement as a word.
pub(crate) fn acknowledged(acknowledgement: &Acknowledgement) -> String {
    match acknowledgement {
        Acknowledgement::OnTwo { .. } => "on two",
        Acknowledgement::Alone => "alone",
    }
    .to_owned()
}

/// Refuses requests that would be answered from incomplete records: a missing record may exist elsewhere (rule
/// D13).
pub(crate) fn all_records(node: &AdminHandles) -> Result<(), Status> {
    match node.store.filled().has_records() {
        true => Ok(()),
        false => Err(Status::unavailable(
            "this node still receives records of the others: ask another node (--node), or wait until 'twinbox cluster \
             status' shows it in-service",
        )),
    }
}

pub(crate) fn internal(error: MailError) -> Status {
    Status::internal(error.to_string())
}

pub(crate) fn mail(error: MailError) -> Status {
    match error {
        MailError::NoMailbox(_) | MailError::NoMessage(_) | MailError::NoAudio(_) => {
            Status::not_found(error.to_string())
        }
        MailError::Timezone { .. }
        | MailError::SyncedField { .. }
        | MailError::SyncedUser { .. }
        | MailError::Disabled { .. } => Status::failed_precondition(error.to_string()),
        error => internal(error),
    }
}

fn create(error: CreateError) -> Status {
    match error {
        CreateError::Mail(error) => mail(error),
        error => Status::failed_precondition(error.to_string()),
    }
}

pub(crate) fn pin(error: PinError) -> Status {
    match error {
        PinError::Mail(error) => mail(error),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn command(error: CommandError) -> Status {
    Status::failed_precondition(error.to_string())
}
