//! Real processes and real peers, by what they are about. One program: its linking takes as long as that of one of them.

mod active_directory;
mod alarms;
mod backup;
mod bad_input;
mod baresip;
mod blows;
mod call_faults;
mod certificates;
mod cli;
mod comparison;
mod containers;
mod demo;
mod deploy;
mod directory;
mod directory_faults;
mod doctor;
mod draining;
mod durability;
mod failing_disk;
mod filling;
mod growing;
mod hanging_disk;
mod health;
mod heirs;
mod joining;
mod kamailio;
mod kill;
mod lights;
mod mail_in;
mod mail_move;
mod mail_out;
mod mail_tls;
mod mailbox_sync;
mod mailbox_sync_accounts;
mod mailbox_sync_move;
mod names;
mod nat;
mod network;
mod nothing_lost;
mod notifications;
mod notifier_move;
mod orders;
mod outcome;
mod overload;
mod partition;
mod power;
mod privacy;
mod purge;
mod rebuild;
mod refused;
mod reports;
mod salvage;
mod settings;
mod sipp;
mod size;
mod slow_sync;
mod steering;
mod supervisor;
mod survivor;
mod sync_move;
mod system_mails;
mod timetable;
mod trust;
mod upgrade;
mod users;
mod vpim;
mod witness;

/// Not a test of its own: the process of a drive, which `power` starts by this name.
#[test]
fn drive() {
    twinbox_power_cut::serve_if_asked();
}
