//! Configuration file of a witness: `[witness]` and one `[[cluster]]` per cluster.

use std::path::{Path, PathBuf};

use twinbox_ids::NodeName;

use super::{
    ConfigError, checked,
    shared::{ClusterConfig, LogConfig},
};

/// A witness's configuration.
#[derive(Debug, Clone)]
pub struct WitnessConfig {
    /// Name of the witness, the same in all its clusters.
    pub name: NodeName,
    /// Folder of the Raft logs, with a subfolder per cluster.
    pub data_dir: PathBuf,
    /// Logging.
    pub log: LogConfig,
    /// Clusters of the witness, at least one.
    pub clusters: Vec<ClusterConfig>,
}

impl WitnessConfig {
    pub(super) fn from_table(file: &Path, table: toml::Table) -> Result<Self, ConfigError> {
        checked(file, table, |root| {
            let mut own = root.section("witness");
            let name = own.require::<NodeName>("name", "this witness's name");
            let data_dir = own.require_path("data_dir", "the folder for its data");
            own.finish();
            let log = LogConfig::read(root.section("log"));
            let sections = root.sections("cluster");
            if sections.is_empty() {
                root.wrong("cluster", "is missing: write [[cluster]] for each cluster that it votes in");
            }
            let clusters: Vec<_> =
                sections.into_iter().filter_map(|section| ClusterConfig::read(section, name.as_ref())).collect();
            for (i, cluster) in clusters.iter().enumerate() {
                if clusters[..i].iter().any(|other| other.id == cluster.id) {
                    root.wrong("cluster", format!("has the id {} twice: a cluster is listed once", cluster.id));
                }
                if clusters[..i].iter().any(|other| other.bind == cluster.bind) {
                    root.wrong("cluster", format!("binds {} twice: give each its own port", cluster.bind));
                }
            }
            Some(Self { name: name?, data_dir: data_dir?, log, clusters })
        })
    }
}
