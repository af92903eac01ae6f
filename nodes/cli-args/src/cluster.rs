//! Arguments of `twinbox cluster …`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use twinbox_ids::NodeName;

use super::{CaCommand, DeactivateArgs, OperatorCertArgs, SteeringCommand, lifetime, seconds};

/// `cluster`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a new cluster's certificates and configuration files
    Init(InitArgs),
    /// Make a token that admits one new member, once
    Token(TokenArgs),
    /// Make this machine a member, with a token from 'cluster token'
    Join(JoinArgs),
    /// Create a member's folder from files with flat names, unless it exists: for Kubernetes
    Place(PlaceArgs),
    /// Show and replace the cluster's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// Make a certificate for an operator on another machine
    OperatorCert(OperatorCertArgs),
    /// Revoke the access of an operator
    OperatorRevoke {
        /// The operator's name, from 'cluster ca status'.
        name: NodeName,
    },
    /// Show every node: role, status, duties, calls, lag
    Status(StatusArgs),
    /// Commands of the role manager
    #[command(flatten)]
    Steer(SteeringCommand),
    /// Put a node back in service
    Activate(NodeArg),
    /// Take a node out of service: its duties move, calls in progress end normally or after --within
    Deactivate(DeactivateArgs),
}

/// `cluster init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Output folder; it gets one folder a member, to be copied to its machine.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The cluster's name, for display.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// A node and its address for the other members (repeat for each node).
    #[arg(long = "node", required = true, value_name = "NAME=HOST:PORT")]
    pub nodes: Vec<MemberArg>,
    /// A witness and its address for the other members.
    #[arg(long = "witness", value_name = "NAME=HOST:PORT")]
    pub witnesses: Vec<MemberArg>,
    /// The address that a node advertises in SIP and SDP, if callers reach it at another than its own (repeat for
    /// each node).
    #[arg(long, value_name = "NAME=IP")]
    pub sip_advertise: Vec<AdvertiseArg>,
    /// An address or network of the PBX: it may call every node.
    #[arg(long, value_name = "NETWORK")]
    pub pbx: Vec<twinbox_ids::Network>,
    /// If DIR has a cluster already, change nothing and succeed, but create again members whose folders are
    /// empty, as after a lost volume: for start scripts and init containers.
    #[arg(long)]
    pub if_absent: bool,
    /// Owner of the created files: user and group by number.
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
}

/// `cluster token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The new member is a witness.
    #[arg(long)]
    pub witness: bool,
    /// Validity of the token: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
}

/// `cluster join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// From 'twinbox cluster token' on a node; '-' reads it from standard input, where no other user sees it.
    pub token: String,
    /// Output folder: the member's folder will be DIR/NAME.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The new member's name.
    #[arg(long, value_name = "NAME")]
    pub name: NodeName,
    /// Address at which the other members reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// Become a witness: vote, hold no data.
    #[arg(long)]
    pub witness: bool,
    /// The address that the node advertises in SIP and SDP, if callers reach it at another than its own.
    #[arg(long, value_name = "IP", conflicts_with = "witness")]
    pub sip_advertise: Option<IpAddr>,
    /// An address or network of the PBX: it may call the node.
    #[arg(long, value_name = "NETWORK", conflicts_with = "witness")]
    pub pbx: Vec<twinbox_ids::Network>,
}

/// `NAME=IP`
#[derive(Debug, Clone)]
pub struct AdvertiseArg {
    /// The node's name.
    pub name: NodeName,
    /// Address that it advertises.
    pub ip: IpAddr,
}

impl std::str::FromStr for AdvertiseArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ip) = text.split_once('=').ok_or("write NAME=IP, such as a=192.0.2.1")?;
        let name = name.parse().map_err(|e: twinbox_ids::ParseIdError| e.to_string())?;
        let ip = ip.parse().map_err(|_| format!("'{ip}' is not an IP address"))?;
        Ok(Self { name, ip })
    }
}

/// `UID:GID`
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

impl std::str::FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        let (user, group) = numbers.ok_or_else(|| format!("'{text}' is not UID:GID: write two numbers"))?;
        Ok(Self { user, group })
    }
}

/// `NAME=HOST:PORT`
#[derive(Debug, Clone)]
pub struct MemberArg {
    /// The member's name.
    pub name: NodeName,
    /// Its peer address.
    pub address: String,
}

impl std::str::FromStr for MemberArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("write NAME=HOST:PORT, such as a=10.0.0.1:7070")?;
        let name = name.parse().map_err(|e: twinbox_ids::ParseIdError| e.to_string())?;
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self { name, address: address.to_owned() })
            }
            _ => Err(format!("'{address}' is not HOST:PORT")),
        }
    }
}

/// `cluster place`
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The folder with the files: MEMBER__FOLDER__FILE, as a Secret's keys.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Name of the member.
    #[arg(long, value_name = "NAME")]
    pub member: NodeName,
    /// Folder of the member.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// `cluster status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Keep showing it, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Wait until every member has this status.
    #[arg(long, value_name = "STATUS", value_parser = ["in-service"])]
    pub wait: Option<String>,
    /// Maximum wait.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

/// A node by name.
#[derive(Debug, Args)]
pub struct NodeArg {
    /// The node's name.
    pub node: NodeName,
}
