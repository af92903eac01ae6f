//! Parts of every process: its allocator, aligned timers, separate runtimes, accept loops, stop signals, reports to systemd and to
//! the supervisor.

mod accept;
mod allocator;
mod side;
mod stop_signals;
mod supervised;
mod systemd;
mod ticker;

pub use accept::accept;
pub use side::SideRuntime;
pub use stop_signals::StopSignals;
pub use supervised::Supervised;
pub use systemd::SystemdNotifier;
pub use ticker::{AlignedTicker, every};
