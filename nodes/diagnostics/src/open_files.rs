//! Limit of open files (sockets included) that `sip.max_calls` needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Open files for the store, peers, listeners and administrators.
const WITHOUT_CALLS: u64 = 1_024;
/// Open files for a call: two sockets and two files on its node, two files for its copy at the peer.
const PER_CALL: u64 = 6;

/// Number of open files for this number of calls.
pub fn open_files_for(max_calls: u64) -> u64 {
    WITHOUT_CALLS + PER_CALL * max_calls
}

/// Requests as many open files as `max_calls` may need, within the system's limit.
pub fn allow_open_files(max_calls: usize) {
    let needed = open_files_for(max_calls as u64);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let granted = maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(granted), maximum });
    if granted < needed || raised.is_err() {
        warn!(
            needed,
            granted, "too few open files for sip.max_calls: raise the limit (LimitNOFILE) or lower max_calls"
        );
    }
}
