//! One witness process votes in several clusters.

use std::{fs, process::Command};

use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Process, Spec, binary};

/// Two clusters, each with a witness of its own; both witnesses stop, and one process takes both places, each with its
/// own certificates and data. Then each cluster loses its publisher, and the vote of the one witness elects another.
#[test]
fn one_witness_serves_two_clusters() {
    let mut clusters = [Cluster::start(&Spec::default()), Cluster::start(&Spec::default())];
    let home = clusters[0].dir().join("shared-witness");
    fs::create_dir_all(home.join("data")).expect("a folder");
    let mut text = format!("[witness]\nname = \"w\"\ndata_dir = {:?}\n", home.join("data"));
    for cluster in &mut clusters {
        cluster.stop("w");
        // So that what is in service afterwards is the other one: it comes with an empty store, and votes when it is.
        cluster.wait_for_status(&["w"], "not-functioning");
        let own = fs::read_to_string(&cluster.member("w").config).expect("the witness's file");
        let (_, section) = own.split_once("[[cluster]]").expect("a cluster in it");
        let (section, _) = section.split_once("[log]").unwrap_or((section, ""));
        text += &format!("\n[[cluster]]{section}");
    }
    let config = home.join("witness.toml");
    fs::write(&config, text).expect("written");
    let mut command = Command::new(binary());
    command.args(["witness", "--config"]).arg(&config);
    let witness = Process::start("shared witness", command, clusters[0].phones(), &home.join("log"));

    for cluster in &mut clusters {
        cluster.wait_for_status(&["a", "b", "w"], "in-service");
        let (publisher, other) = cluster.publisher_and_other();
        cluster.kill(&publisher);
        twinbox_testkit::wait_until("the survivor to be publisher", std::time::Duration::from_secs(20), || {
            cluster.publisher(&other) == other
        });
    }
    assert!(!witness.is_dead(), "{}", witness.tail(20));
}
