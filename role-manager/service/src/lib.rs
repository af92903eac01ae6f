//! The role manager: one Raft group that agrees on members in service, the publisher and the holders of duties.
//!
//! [`Roles::start`] takes part in the group; [`Roles::watch`] shows it; every external effect of a duty must pass
//! [`Roles::gate`]. The decisions are those of `twinbox-roles-core`, and Raft with its store is `twinbox-raft`; this
//! crate has the connections, the leases, and the tasks that drive them. DESIGN.md of the role manager describes the
//! structure.

#[cfg(test)]
extern crate self as twinbox_roles;

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
#[path = "../tests/service/common/mod.rs"]
mod cluster;
mod config;
mod convert;
mod dialer;
mod error;
mod exits;
mod failure_detector;
mod gap;
mod go_on_alone;
mod leader;
mod lease_agent;
mod members;
mod membership_reconciler;
mod orders;
mod other_group_members;
mod raft_disk;
#[cfg(test)]
mod raft_tests;
mod request_stream;
mod roles;
mod roster;
mod server;
mod solo_controller;
mod talk;
mod task_monitor;
mod tasks;

pub use config::{MemberAddress, RolesConfig};
pub use error::{CommandError, RolesError};
pub use exits::ExitsService;
pub use gap::LongestGap;
pub use roles::Roles;
pub use server::RolesService;
pub use twinbox_gate::{Gate, InFlight, NotHolder, OwnError, Owned};
pub use twinbox_raft::StoreError;
#[cfg(feature = "simulation")]
pub use twinbox_raft::simulation;
pub use twinbox_roles_core::{
    Bound, CallHeir, CallPolicy, Cause, CertificateOrder, CertificateRefusal, Certificates, Departure, Duty,
    DutyState, DutyView, FAR_BEHIND, Facts, Failback, FeatureLevels, Fingerprint, HealthReport, Measures,
    MemberKind, MemberView, Mode, Move, MoveObject, OnQuorumLoss, Operator, Order, OrderId, Refusal, RolesView,
    Rotation, RotationStep, SUPPORTED_LEVELS, ServiceHealth, Setting, SettingError, Settings, SoloReport, Split,
    State, Status, Timing, Trigger, call_policy, policy_table,
};
