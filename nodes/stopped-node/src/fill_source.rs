//! The node from which another one is to fill, looked at before the data of that one is given up.

use std::time::Duration;

use twinbox_config::{NodeConfig, members_file};
use twinbox_diagnostics::doctor::{findings::Answer, observe};
use twinbox_ids::NodeName;
use twinbox_roles::{MemberKind, Status};

/// Time for each step of the other node's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Reason why this node cannot fill from another one. Nothing was changed; the text has the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NoFillSource {
    /// Not another node of this cluster.
    #[error("'{from}' is {what}; the other nodes of this cluster are: {others}. Nothing was changed")]
    NoNode {
        /// The given name.
        from: NodeName,
        /// Its kind or state, in place of a source.
        what: &'static str,
        /// Names of those that it could be.
        others: String,
    },
    /// It cannot be asked.
    #[error(
        "{from} does not answer at {address} ({reason}): nothing was changed; start it first, since this node has to fill \
         from it"
    )]
    Silent {
        /// Its name.
        from: NodeName,
        /// Its address.
        address: String,
        /// Reason of the failure.
        reason: String,
    },
    /// Another server answers there.
    #[error(
        "the server at {address} does not prove to be {from} of this cluster ({reason}): nothing was changed; correct its \
         [[cluster.member]], or name another node"
    )]
    NotItself {
        /// Its name.
        from: NodeName,
        /// Its address.
        address: String,
        /// Reason of the failure.
        reason: String,
    },
    /// It has not all records.
    #[error(
        "{0} has not all records itself, its own fill has not ended: nothing was changed; name another node, or wait until \
         'twinbox replication status' there says that all data is here"
    )]
    Fills(NodeName),
    /// It is not in service.
    #[error(
        "{from} is {status}, not in-service: nothing was changed; name another node, or wait until 'twinbox cluster status' \
         shows it in-service"
    )]
    NotInService {
        /// Its name.
        from: NodeName,
        /// Its status, as it knows it itself.
        status: String,
    },
    /// It does not report its status.
    #[error("{0} runs an earlier release that does not report its status: nothing was changed; upgrade it first")]
    Earlier(NodeName),
}

/// Checks that a stopped node can fill from this other one: a node of its cluster that is in service and has all records.
///
/// # Errors
/// The reason why it cannot.
pub async fn check_fill_source(config: &NodeConfig, from: &NodeName) -> Result<(), NoFillSource> {
    let known = members_file::known(&config.cluster);
    let nodes = || known.iter().filter(|member| member.kind == MemberKind::Node && member.name != config.name);
    let Some(source) = nodes().find(|member| member.name == *from) else {
        let what = match known.iter().find(|member| member.name == *from) {
            _ if *from == config.name => "this node itself",
            Some(_) => "a witness, which has no data",
            None => "no member of this cluster",
        };
        let names: Vec<&str> = nodes().map(|member| member.name.as_str()).collect();
        let others = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(NoFillSource::NoNode { from: from.clone(), what, others });
    };
    let (from, address) = (from.clone(), source.address.clone());
    let info = match observe::member(&config.cluster, &from, &address, ANSWER).await {
        (_, Some(info)) => info,
        (Answer::NotItself(reason), None) => return Err(NoFillSource::NotItself { from, address, reason }),
        (Answer::NoAddress(reason) | Answer::NoConnection(reason), None) => {
            return Err(NoFillSource::Silent { from, address, reason });
        }
        (Answer::Clock { .. }, None) => {
            return Err(NoFillSource::Silent { from, address, reason: "an empty answer".to_owned() });
        }
    };
    match info.status {
        status if status.is_empty() => Err(NoFillSource::Earlier(from)),
        _ if info.lacks_records => Err(NoFillSource::Fills(from)),
        status if status != Status::InService.to_string() => Err(NoFillSource::NotInService { from, status }),
        _ => Ok(()),
    }
}
