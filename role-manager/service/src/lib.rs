//! The role manager: one Raft group that agrees on members in service, the publisher and the holders of duties.
//!
//! [`Roles::start`] takes part in the group; [`Roles::watch`] shows it; every external effect of a duty must pass
//! [`Roles::gate`]. The decisions are those of `twinbox-roles-core`; this crate has Raft's store and network, the
//! leases, and the tasks that drive them. DESIGN.md in this crate describes the structure.

#[cfg(test)]
extern crate self as twinbox_roles;

mod alone;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod cluster;
mod config;
mod convert;
mod dialer;
mod error;
mod exits;
mod gate;
mod keeper;
mod leader;
mod line;
mod members;
mod orders;
mod owned;
mod raft;
mod reach;
mod rivals;
mod roles;
mod roster;
mod server;
#[cfg(feature = "simulation")]
pub mod simulation;
mod standing;
mod survive;
mod talk;
mod tasks;
mod tend;
mod votes;
mod warden;
mod watched;

pub use config::{MemberAddress, RolesConfig};
pub use error::{CommandError, RolesError};
pub use exits::ExitsService;
pub use gate::{Gate, InFlight, NotHolder};
pub use owned::{OwnError, Owned};
pub use roles::Roles;
pub use server::RolesService;
pub use twinbox_roles_core::{
    Bound, Cause, CertificateOrder, CertificateRefusal, Certificates, Departure, Doors, Duty, DutyState, DutyView,
    FAR_BEHIND, Facts, Failback, Fingerprint, HealthReport, Inheritance, LongestGap, Measures, MemberKind,
    MemberView, Mode, Move, OnQuorumLoss, Operator, Order, OrderId, Refusal, RolesView, Rotation, SPEAKS,
    ServiceHealth, Setting, SettingError, Settings, SoloReport, Speaks, Split, State, Status, Step, Timing,
    Trigger, What, doors, policy_table,
};
