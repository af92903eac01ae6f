//! Builds the duties and mail in from the configuration.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_admin_api::{DirectoryOrders, MailRoute, MwiResync};
use twinbox_alarms::Alarms;
use twinbox_config::NodeConfig;
use twinbox_diagnostics::comparison::Comparison;
use twinbox_directory_duty::DirectoryDuty;
use twinbox_duty::{Notifications, OutboxDuty};
use twinbox_health::DutyHandles;
use twinbox_mail_gateway::{Gateway, MailFiling, MailListener};
use twinbox_mailbox_sync_duty::{MailboxSyncConfig, MailboxSyncDuty};
use twinbox_mailstore::{Mailstore, Returns};
use twinbox_mta::{MailChannels, MailSender};
use twinbox_notifier::{HttpChannels, NotifierService, mwi::ClusterMwiSender};
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_roles::{Duty, Roles};
use twinbox_system_mail::SystemMails;

use crate::timetable;

/// The duties of a node, without running tasks.
pub(crate) fn build(
    config: &NodeConfig,
    mailstore: &Mailstore,
    roles: &Roles,
    alarms: &Alarms,
    mwi: ClusterMwiSender,
    comparison: &Arc<Comparison>,
) -> DutyHandles {
    let notifications = Notifications::new(mailstore.clone(), config.mail.templates.clone());
    let links = config.links.as_ref().map(|links| links.url.clone());
    let http = HttpChannels::new(notifications.clone(), config.mail.sms.clone()).with_links(links);
    let devices = OutboxDuty::new(mailstore.clone(), roles.gate(Duty::Notifier), alarms.clone(), http);
    let source = ReportSource { mailstore: mailstore.clone(), alarms: alarms.clone() };
    let (out, mail_out) = (config.mail.out.clone(), config.mail.out.is_some());
    let mail = MailChannels::new(notifications, out, returns(config, mailstore), source.clone());
    let report = ReportWork { source, mails: SystemMails::new(mailstore.clone(), mail_out) };
    let (name, members) = (mwi.node.clone(), mwi.members.clone());
    let notifier = NotifierService::new(mailstore.clone(), roles.gate(Duty::Notifier), mwi, devices);
    let gate = roles.gate(Duty::DirectorySync);
    let directory_sync = DirectoryDuty::new(mailstore.clone(), gate, alarms.clone(), mail_out);
    let directories = DirectoryOrders {
        name: name.clone(),
        roles: roles.clone(),
        members: members.clone(),
        mailstore: mailstore.clone(),
        duty: directory_sync.clone(),
    };
    let resync = MwiResync { name, roles: roles.clone(), members, notifier: notifier.clone() };
    DutyHandles {
        timetable: timetable::build(config, roles, report, resync, directories, comparison.clone()),
        notifier,
        mta: OutboxDuty::new(mailstore.clone(), roles.gate(Duty::Mta), alarms.clone(), mail),
        directory_sync,
        mailbox_sync: mailbox_sync(config, mailstore, roles, alarms),
    }
}

fn mailbox_sync(config: &NodeConfig, mailstore: &Mailstore, roles: &Roles, alarms: &Alarms) -> MailboxSyncDuty {
    let from = config.mail.out.as_ref().map(|out| out.from.to_string());
    let settings = MailboxSyncConfig { cluster: config.cluster.id, from };
    MailboxSyncDuty::new(mailstore.clone(), roles.gate(Duty::MailboxSync), alarms.clone(), settings)
}

/// Messages that come back to their senders, with the reason in this node's prompts.
fn returns(config: &NodeConfig, mailstore: &Mailstore) -> Returns {
    Returns::new(mailstore.clone(), config.prompts.clone())
}

/// Mail in, if the configuration has addresses to listen on.
pub(crate) fn mail_gateway(
    config: &NodeConfig,
    mailstore: &Mailstore,
    alarms: &Alarms,
) -> Option<Gateway<MailFiling>> {
    let incoming = config.mail.incoming.as_ref()?;
    let (domain, reports) = (&incoming.domain, incoming.reports.clone());
    let filing = MailFiling::new(mailstore.clone(), alarms.clone(), domain, reports, returns(config, mailstore));
    let gateway = Gateway::new(filing, incoming.settings.clone(), incoming.limits.clone());
    gateway.tls().set(incoming.tls.clone());
    Some(gateway)
}

/// Takes mails on every node, whichever node holds the duties (rule E3).
pub(crate) fn serve_mail(
    gateway: Option<&Gateway<MailFiling>>,
    listeners: Vec<MailListener>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    for (gateway, listener) in gateway.into_iter().cycle().zip(listeners) {
        let (gateway, stop) = (gateway.clone(), stop.clone());
        tasks.spawn(async move { gateway.serve(listener, stop).await });
    }
}

/// The way of mail out as an administrator tests it: with short time limits.
pub(crate) fn mail_route(out: &MailSender) -> Option<MailRoute> {
    let mailer = out.mailer.with_timeouts(MailRoute::timeouts()).ok()?;
    Some(MailRoute { mailer, sender: out.from.to_string() })
}
