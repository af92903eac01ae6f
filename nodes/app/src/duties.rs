//! Builds the duties and mail in from the configuration.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_admin_api::{DirectoryOrders, MwiResync};
use twinbox_alarm_rules::served_certificates;
use twinbox_alarms::Alarms;
use twinbox_cluster_settings::Key;
use twinbox_config::{MailInConfig, NodeConfig, Services};
use twinbox_diagnostics::comparison::Comparison;
use twinbox_directory_duty::DirectoryDuty;
use twinbox_duty::{Notifications, OutboxDuty};
use twinbox_health::DutyHandles;
use twinbox_mail_gateway::{Gateway, GatewaySettings, MailFiling, MailListener};
use twinbox_mailbox_sync_duty::{MailboxSyncConfig, MailboxSyncDuty};
use twinbox_mailstore::{Mailstore, Returns};
use twinbox_mta::MailChannels;
use twinbox_notifier::{HttpChannels, HttpSettings, NotifierService, mwi::ClusterMwiSender};
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_roles::{Duty, Roles};
use twinbox_settings_service::SharedSettings;
use twinbox_system_mail::SystemMails;
use twinbox_tls::ServedCertificate;

use crate::timetable;

/// The duties of a node, without running tasks.
pub(crate) fn build(
    config: &NodeConfig,
    settings: &SharedSettings,
    mailstore: &Mailstore,
    roles: &Roles,
    alarms: &Alarms,
    mwi: ClusterMwiSender,
    comparison: &Arc<Comparison>,
) -> DutyHandles {
    let notifications = Notifications::new(mailstore.clone(), config.mail.templates.clone());
    let of_http = HttpSettings {
        sms: Arc::new(settings.current(|services| services.sms.clone())),
        links: Arc::new(settings.current(|services| services.links.clone())),
    };
    let http = HttpChannels::new(notifications.clone(), of_http);
    let devices = OutboxDuty::new(mailstore.clone(), roles.gate(Duty::Notifier), alarms.clone(), http);
    let source = ReportSource { mailstore: mailstore.clone(), alarms: alarms.clone() };
    let out = settings.current(|services| services.mail_out.clone());
    let mail = MailChannels::new(notifications, Arc::new(out), returns(config, mailstore), source.clone());
    let has_mail_out = || settings.current(|services| services.mail_out.is_configured());
    let mails = SystemMails::new(mailstore.clone(), has_mail_out());
    let report = ReportWork { source, mails, keep: Arc::new(keep_of_call_records(settings)) };
    let (name, members) = (mwi.node.clone(), mwi.members.clone());
    let notifier = NotifierService::new(mailstore.clone(), roles.gate(Duty::Notifier), mwi, devices);
    let gate = roles.gate(Duty::DirectorySync);
    let directory_sync = DirectoryDuty::new(mailstore.clone(), gate, alarms.clone(), has_mail_out());
    let directories = DirectoryOrders {
        name: name.clone(),
        roles: roles.clone(),
        members: members.clone(),
        mailstore: mailstore.clone(),
        duty: directory_sync.clone(),
    };
    let resync = MwiResync { name, roles: roles.clone(), members, notifier: notifier.clone() };
    DutyHandles {
        timetable: timetable::build(
            settings,
            config.data_dir.clone(),
            roles,
            report,
            resync,
            directories,
            comparison.clone(),
        ),
        notifier,
        mta: OutboxDuty::new(mailstore.clone(), roles.gate(Duty::Mta), alarms.clone(), mail),
        directory_sync,
        mailbox_sync: mailbox_sync(config, settings, mailstore, roles, alarms),
    }
}

/// Time for which call records are kept, as it is whenever the function is called.
pub(crate) fn keep_of_call_records(settings: &SharedSettings) -> impl Fn() -> Duration + Send + Sync + use<> {
    let days = settings.seconds(Key::KeepDays);
    move || days() * 86_400
}

fn mailbox_sync(
    config: &NodeConfig,
    settings: &SharedSettings,
    mailstore: &Mailstore,
    roles: &Roles,
    alarms: &Alarms,
) -> MailboxSyncDuty {
    let from = settings.current(|services| services.identity.as_ref().map(|identity| identity.from.to_string()));
    let config = MailboxSyncConfig { cluster: config.cluster.id, from: Arc::new(from) };
    MailboxSyncDuty::new(mailstore.clone(), roles.gate(Duty::MailboxSync), alarms.clone(), config)
}

/// Messages that come back to their senders, with the reason in this node's prompts.
fn returns(config: &NodeConfig, mailstore: &Mailstore) -> Returns {
    Returns::new(mailstore.clone(), config.prompts.clone())
}

/// Mail in, if the configuration has addresses to listen on.
pub(crate) fn mail_gateway(
    config: &NodeConfig,
    settings: &SharedSettings,
    mailstore: &Mailstore,
    alarms: &Alarms,
) -> Option<Gateway<MailFiling>> {
    let incoming = config.mail.incoming.as_ref()?;
    let identity = settings.current(|services| services.identity.clone());
    let filing = MailFiling::new(mailstore.clone(), alarms.clone(), Arc::new(identity), returns(config, mailstore));
    let gateway = Gateway::new(filing, gateway_settings(incoming, &settings.services()), incoming.limits.clone());
    Some(gateway.with_tls(incoming.tls.as_ref().map(ServedCertificate::config)))
}

fn gateway_settings(incoming: &MailInConfig, services: &Services) -> GatewaySettings {
    GatewaySettings {
        hostname: services.hello.clone(),
        networks: incoming.networks.clone(),
        open: incoming.open,
        reports: services.mail_out.is_configured(),
    }
}

/// Gives new connections of mail in the settings of the moment, until stopped.
async fn follow_settings(
    gateway: Gateway<MailFiling>,
    incoming: MailInConfig,
    settings: SharedSettings,
    stop: CancellationToken,
) {
    let mut services = settings.watch_services();
    loop {
        gateway.set_settings(gateway_settings(&incoming, &services.borrow_and_update()));
        tokio::select! {
            changed = services.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Takes mails on every node, whichever node holds the duties (rule E3).
pub(crate) fn serve_mail(
    gateway: Option<&Gateway<MailFiling>>,
    config: &NodeConfig,
    settings: &SharedSettings,
    listeners: Vec<MailListener>,
    alarms: &Alarms,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let certificate = config.mail.incoming.as_ref().and_then(|incoming| incoming.tls.clone());
    tasks.spawn(served_certificates::watch("mail.in", certificate, alarms.clone(), stop.clone()));
    if let Some((gateway, incoming)) = gateway.zip(config.mail.incoming.clone()) {
        tasks.spawn(follow_settings(gateway.clone(), incoming, settings.clone(), stop.clone()));
    }
    for (gateway, listener) in gateway.into_iter().cycle().zip(listeners) {
        let (gateway, stop) = (gateway.clone(), stop.clone());
        tasks.spawn(async move { gateway.serve(listener, stop).await });
    }
}
