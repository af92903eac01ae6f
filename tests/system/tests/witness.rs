//! One witness process votes in several clusters.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Process, Spec, binary, wait_until};

/// Two clusters whose witnesses have stopped, and the file of one witness that replaces both, each with its own
/// certificates and data.
struct Shared {
    clusters: [Cluster; 2],
    data: PathBuf,
    config: PathBuf,
    /// Ids of the clusters.
    ids: Vec<String>,
}

impl Shared {
    fn prepare() -> Self {
        let mut clusters = [Cluster::start(&Spec::default()), Cluster::start(&Spec::default())];
        let home = clusters[0].dir().join("shared-witness");
        let (data, config) = (home.join("data"), home.join("witness.toml"));
        fs::create_dir_all(&data).expect("a folder");
        let mut text = format!("[witness]\nname = \"w\"\ndata_dir = {data:?}\n");
        let mut ids = Vec::new();
        for cluster in &mut clusters {
            cluster.stop("w");
            // So that the witness in service afterwards is the other one: it comes with an empty store, and votes when
            // it is.
            cluster.wait_for_status(&["w"], "not-functioning");
            let own = fs::read_to_string(&cluster.member("w").config).expect("the witness's file");
            let (_, section) = own.split_once("[[cluster]]").expect("a cluster in it");
            let (section, _) = section.split_once("[log]").unwrap_or((section, ""));
            text += &format!("\n[[cluster]]{section}");
            let id =
                section.lines().find_map(|line| line.trim().strip_prefix("id = \"")).expect("the cluster's id");
            ids.push(id.trim_end_matches('"').to_owned());
        }
        fs::write(&config, text).expect("written");
        Self { clusters, data, config, ids }
    }

    fn start(&self) -> Process {
        let mut command = Command::new(binary());
        command.args(["witness", "--config"]).arg(&self.config);
        let log = self.config.with_file_name("log");
        Process::start("shared witness", command, self.clusters[0].phones(), &log)
    }
}

/// Each cluster loses its publisher, and the vote of the one witness elects another.
#[test]
fn one_witness_serves_two_clusters() {
    let mut shared = Shared::prepare();
    let witness = shared.start();
    for cluster in &mut shared.clusters {
        cluster.wait_for_status(&["a", "b", "w"], "in-service");
        let (publisher, other) = cluster.publisher_and_other();
        cluster.kill(&publisher);
        wait_until("the survivor to be publisher", Duration::from_secs(20), || cluster.publisher(&other) == other);
    }
    assert!(!witness.is_dead(), "{}", witness.tail(20));
}

/// The store of one cluster cannot be read: the witness votes in the other, and names the one in which it does not.
#[test]
fn a_shared_witness_serves_the_others_when_one_store_is_unreadable() {
    let shared = Shared::prepare();
    // A file where the store's folder should be.
    fs::write(shared.data.join(&shared.ids[0]), "no store").expect("written");
    let mut witness = shared.start();
    shared.clusters[1].wait_for_status(&["a", "b", "w"], "in-service");
    let log = witness.log();
    assert!(log.contains("this witness does not vote in the cluster"), "{log}");
    let health = Command::new(binary()).args(["health", "--config"]).arg(&shared.config).output().expect("it runs");
    let said = [health.stdout, health.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!health.status.success() && said.contains("role-manager does not work"), "{said}");
    assert!(said.contains(&shared.ids[0]) && !said.contains(&shared.ids[1]), "{said}");
    // A witness that can serve no cluster ends, and reports the reason.
    fs::rename(shared.data.join(&shared.ids[1]), shared.data.join("aside")).expect("moved");
    fs::write(shared.data.join(&shared.ids[1]), "no store").expect("written");
    witness.stop(Duration::from_secs(20));
    let mut witness = shared.start();
    let ended = witness.wait(Duration::from_secs(20)).expect("it ends");
    assert!(!ended.success() && witness.tail(5).contains(&shared.ids[0]), "{}", witness.tail(20));
}
