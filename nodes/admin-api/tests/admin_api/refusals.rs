//! Requests that a node refuses: each refusal names the input and the remedy.

use tonic::{Code, Response, Status};
use twinbox_replication_store::Filled;
use twinbox_wire::{
    admin::{
        ClassRequest, ClusterStatusRequest, DeactivateRequest, DutyListRequest, MessageListRequest, MessageRequest,
        NodeRequest, PromptRequest, ServiceListRequest, ServiceRestartRequest, UserAddRequest, UserExportRequest,
        UserListRequest, UserRenumberRequest, UserRequest, admin_client::AdminClient,
        provisioning_client::ProvisioningClient,
    },
    backup::{CreateRequest, backups_client::BackupsClient},
    delivery::{DeviceListRequest, DeviceRequest, delivery_client::DeliveryClient},
    directory::{DirectoryListRequest, DirectoryRequest, directories_client::DirectoriesClient},
    join::{OperatorName, authorities_client::AuthoritiesClient},
    mailbox_sync::{ServerListRequest, ServerRequest, mailbox_syncs_client::MailboxSyncsClient},
    sending::{LocationListRequest, LocationRequest, sending_client::SendingClient},
    settings::{NamedChange, SettingChangeRequest, settings_client::SettingsClient},
    steering::{
        Change, MoveDuty, NamedValue, OrderRequest, OutcomeRequest, order_request::Order,
        steering_client::SteeringClient,
    },
    timetable::{JobAddRequest, JobListRequest, JobNameRequest, timetables_client::TimetablesClient},
};

use crate::node::AdminNode;

/// The refusal of a request.
fn refusal<T>(answer: Result<Response<T>, Status>) -> Status {
    match answer {
        Ok(_) => panic!("it is not refused"),
        Err(status) => status,
    }
}

/// Refusals with their codes and parts of their messages: the input first, then the remedy.
#[track_caller]
fn assert_refused(refused: impl IntoIterator<Item = (Status, Code, [&'static str; 2])>) {
    for (status, code, parts) in refused {
        assert_eq!(status.code(), code, "{}", status.message());
        for part in parts {
            assert!(status.message().contains(part), "{part:?} is not in: {}", status.message());
        }
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_about_a_user_or_message_is_refused_with_the_input_and_the_remedy() {
    let node = AdminNode::formed().await;
    node.node.mailbox().await;
    let mut admin = AdminClient::new(node.channel.clone());
    let mut provisioning = ProvisioningClient::new(node.channel.clone());
    let mut delivery = DeliveryClient::new(node.channel.clone());
    let new = |number: &str| UserAddRequest { number: text(number), pin: text("2580"), ..Default::default() };
    let two_lines = UserAddRequest { name: text("two\nlines"), ..new("1002") };
    let unreachable = UserAddRequest { operator: text("+49 30 99"), ..new("1002") };
    let nowhere = UserAddRequest { timezone: text("Mars/Base"), ..new("1002") };
    let renumber = UserRenumberRequest { number: text("1001"), to: text("1o02") };
    let message = |id: &str| MessageRequest { number: text("1001"), id: text(id) };
    let none = "0123456789abcdef0123456789abcdef";
    let device = |kind: &str| DeviceRequest {
        number: text("1001"),
        name: text("pager"),
        kind: text(kind),
        settings: Vec::new(),
    };
    let class = ClassRequest { name: text("boss"), rules: Vec::new() };
    assert_refused([
        (
            refusal(admin.user_show(UserRequest { number: text("9999") }).await),
            Code::NotFound,
            ["there is no mailbox 9999", "twinbox user list"],
        ),
        (
            refusal(admin.user_add(new("1001")).await),
            Code::FailedPrecondition,
            ["the number 1001 is in use", "choose another"],
        ),
        (refusal(admin.user_add(new("12a4")).await), Code::FailedPrecondition, ["'12a4'", "has digits only"]),
        (
            refusal(admin.user_add(nowhere).await),
            Code::FailedPrecondition,
            ["'Mars/Base' is not a time zone", "such as Europe/Berlin"],
        ),
        (refusal(admin.user_add(two_lines).await), Code::InvalidArgument, ["name: ", "on one line"]),
        (refusal(admin.user_add(unreachable).await), Code::InvalidArgument, ["operator: ", "without spaces"]),
        (refusal(admin.user_renumber(renumber).await), Code::FailedPrecondition, ["'1o02'", "has digits only"]),
        (
            refusal(admin.message_delete(message("xyz")).await),
            Code::InvalidArgument,
            ["'xyz' is not a valid message", "32 hexadecimal digits"],
        ),
        (
            refusal(admin.message_delete(message(none)).await),
            Code::NotFound,
            ["message 0123456789abcdef0123456789abcdef does not exist", "twinbox message list"],
        ),
        (
            refusal(provisioning.class_remove(class).await),
            Code::NotFound,
            ["class of service 'boss' does not exist", "twinbox cos list"],
        ),
        (
            refusal(provisioning.prompt_remove(PromptRequest { name: text("vm-helo") }).await),
            Code::InvalidArgument,
            ["no prompt 'vm-helo'", "twinbox prompt list --all"],
        ),
        (
            refusal(delivery.device_remove(device("")).await),
            Code::NotFound,
            ["mailbox 1001 has no device 'pager'", "twinbox device add 1001"],
        ),
        (
            refusal(delivery.device_add(device("pigeon")).await),
            Code::InvalidArgument,
            ["'pigeon' is not a kind of device", "use one of"],
        ),
    ]);
    let users = admin.user_list(UserListRequest::default()).await.expect("a list").into_inner().users;
    assert_eq!(users.len(), 1, "nothing was made by the way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_about_a_node_duty_or_setting_is_refused_with_the_input_and_what_there_is() {
    let node = AdminNode::formed().await;
    let mut admin = AdminClient::new(node.channel.clone());
    let mut steering = SteeringClient::new(node.channel.clone());
    let mut settings = SettingsClient::new(node.channel.clone());
    let mut authorities = AuthoritiesClient::new(node.channel.clone());
    let order = |order: Option<Order>| OrderRequest { id: Default::default(), order };
    let duty = Order::MoveDuty(MoveDuty { duty: text("notifyer"), to: text("a") });
    let mode = Order::Set(Change { settings: vec![NamedValue { name: text("modee"), value: text("x") }] });
    let to_nowhere = Order::MoveDuty(MoveDuty { duty: text("notifier"), to: text("z") });
    let unknown_key = NamedChange { name: text("mail.domian"), value: Some(text("vm.example")) };
    let node_named = |name: &str| NodeRequest { node: text(name) };
    let restart = ServiceRestartRequest { node: text("b"), service: text("calls"), force: false };
    assert_refused([
        (
            refusal(admin.service_list(ServiceListRequest { node: text("b") }).await),
            Code::NotFound,
            ["there is no node 'b'", "nodes are a"],
        ),
        (refusal(admin.service_restart(restart).await), Code::NotFound, ["there is no node 'b'", "nodes are a"]),
        (
            refusal(admin.activate(node_named("Bad Name")).await),
            Code::InvalidArgument,
            ["'Bad Name' is not a valid node name", "1 to 63 of a-z"],
        ),
        (
            refusal(admin.activate(node_named("z")).await),
            Code::FailedPrecondition,
            ["there is no node 'z' in this cluster", "its members are: a"],
        ),
        (
            refusal(admin.deactivate(DeactivateRequest { node: text("a"), within_ms: None }).await),
            Code::FailedPrecondition,
            ["'a' is the last node in service", "bring another into service first"],
        ),
        (
            refusal(steering.give(order(Some(duty))).await),
            Code::InvalidArgument,
            ["there is no duty 'notifyer'", "the duties are:"],
        ),
        (
            refusal(steering.give(order(Some(to_nowhere))).await),
            Code::FailedPrecondition,
            ["there is no node 'z' in this cluster", "its members are: a"],
        ),
        (
            refusal(steering.give(order(Some(mode))).await),
            Code::InvalidArgument,
            ["there is no setting 'modee'", "the settings are:"],
        ),
        (refusal(steering.give(order(None)).await), Code::InvalidArgument, ["an order", "is missing"]),
        (
            refusal(steering.outcome(OutcomeRequest { id: text("12") }).await),
            Code::InvalidArgument,
            ["'12' is no id of an order", "32 hexadecimal digits"],
        ),
        (
            refusal(settings.setting_change(SettingChangeRequest { changes: vec![unknown_key] }).await),
            Code::InvalidArgument,
            ["there is no setting 'mail.domian'", "twinbox setting list"],
        ),
        (
            refusal(authorities.revoke_operator(OperatorName { name: text("anna") }).await),
            Code::FailedPrecondition,
            ["there is no operator 'anna'", "the operators are:"],
        ),
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn item_that_does_not_exist_is_refused_with_its_name_and_the_command_that_adds_one() {
    let node = AdminNode::formed().await;
    let mut timetables = TimetablesClient::new(node.channel.clone());
    let mut directories = DirectoriesClient::new(node.channel.clone());
    let mut sending = SendingClient::new(node.channel.clone());
    let mut mail_servers = MailboxSyncsClient::new(node.channel.clone());
    let job = JobAddRequest { name: text("nightly"), kind: text("magic"), settings: Vec::new() };
    let directory = |name: &str| DirectoryRequest { name: text(name), settings: Vec::new() };
    let location = LocationRequest { name: text("berlin"), settings: Vec::new() };
    let server = |name: &str| ServerRequest { name: text(name), settings: Vec::new() };
    assert_refused([
        (
            refusal(timetables.job_remove(JobNameRequest { name: text("nightly") }).await),
            Code::NotFound,
            ["there is no job 'nightly'", "twinbox timetable add"],
        ),
        (
            refusal(timetables.job_add(job).await),
            Code::InvalidArgument,
            ["kind 'magic' does not exist", "use one of"],
        ),
        (
            refusal(directories.directory_remove(directory("corp")).await),
            Code::NotFound,
            ["there is no directory 'corp'", "twinbox directory add"],
        ),
        (
            refusal(directories.directory_add(directory("two words")).await),
            Code::InvalidArgument,
            ["'two words' cannot name a directory", "use 1 to 63 of"],
        ),
        (
            refusal(sending.location_remove(location).await),
            Code::NotFound,
            ["there is no location 'berlin'", "twinbox location add"],
        ),
        (
            refusal(mail_servers.server_remove(server("corp")).await),
            Code::NotFound,
            ["there is no mail server 'corp'", "twinbox mailbox-sync server add"],
        ),
    ]);
}

/// A record that is missing here may exist on another node (rule D13).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_lacks_records_refuses_what_needs_them_and_shows_the_rest() {
    let node = AdminNode::start().await;
    node.node.mailbox().await;
    let channel = || node.channel.clone();
    let (mut admin, mut provisioning) = (AdminClient::new(channel()), ProvisioningClient::new(channel()));
    let (mut backups, mut delivery) = (BackupsClient::new(channel()), DeliveryClient::new(channel()));
    let (mut directories, mut sending) = (DirectoriesClient::new(channel()), SendingClient::new(channel()));
    let (mut timetables, mut servers) = (TimetablesClient::new(channel()), MailboxSyncsClient::new(channel()));
    let user = || UserRequest { number: text("1001") };
    let messages = MessageListRequest { number: text("1001"), ..Default::default() };
    let refused = [
        refusal(admin.user_list(UserListRequest::default()).await),
        refusal(admin.user_show(user()).await),
        refusal(admin.user_add(UserAddRequest { number: text("1002"), ..Default::default() }).await),
        refusal(admin.user_remove(user()).await),
        refusal(admin.message_list(messages).await),
        refusal(provisioning.user_export(UserExportRequest {}).await),
        refusal(backups.create(CreateRequest { dir: text("/nowhere") }).await),
        refusal(delivery.device_list(DeviceListRequest::default()).await),
        refusal(directories.directory_list(DirectoryListRequest {}).await),
        refusal(sending.location_list(LocationListRequest {}).await),
        refusal(timetables.job_list(JobListRequest {}).await),
        refusal(servers.server_list(ServerListRequest {}).await),
    ];
    let parts = ["this node still receives records of the others", "ask another node (--node)"];
    assert_refused(refused.map(|status| (status, Code::Unavailable, parts)));
    let services = admin.service_list(ServiceListRequest::default()).await.expect("services").into_inner();
    assert_eq!(services.nodes.len(), 1);
    admin.cluster_status(ClusterStatusRequest {}).await.expect("the status");
    admin.duty_list(DutyListRequest {}).await.expect("the duties");

    node.node.store.set_filled(Filled::Records).await.expect("stored");
    let users = admin.user_list(UserListRequest::default()).await.expect("a list").into_inner().users;
    assert_eq!(users.iter().map(|user| user.number.as_str()).collect::<Vec<_>>(), ["1001"]);
}
