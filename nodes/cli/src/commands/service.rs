//! `twinbox service …`.

use std::{path::Path, time::Duration};

use twinbox_wire::admin::{NodeServices, Service, ServiceListReply, ServiceListRequest, ServiceRestartRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::ServiceCommand;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: ServiceCommand) -> Result<(), CliError> {
    let mut client = client::connect(socket).await?;
    match command {
        ServiceCommand::List { at } => {
            let request = ServiceListRequest { node: at.unwrap_or_default() };
            let reply = client.service_list(request).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            print!("{}", render(&reply));
            Ok(())
        }
        ServiceCommand::Restart { service, at, force } => {
            let node = at.unwrap_or_default();
            let request = ServiceRestartRequest { node: node.clone(), service: service.clone(), force };
            client.service_restart(request).await?;
            let at = if node.is_empty() { String::new() } else { format!(" on {node}") };
            let done = format!("{service} is restarted{at}");
            if json {
                return output::json(&serde_json::json!({ "done": done }));
            }
            println!("{done}");
            Ok(())
        }
    }
}

fn render(reply: &ServiceListReply) -> String {
    let rows = reply.nodes.iter().flat_map(|node| node.services.iter().map(|service| row(node, service)));
    let mut text = output::table(&["NODE", "SERVICE", "STATE", "FOR", "RESTARTS", "LAST ERROR"], rows) + "\n";
    for node in reply.nodes.iter().filter(|node| !node.problem.is_empty()) {
        text += &format!("{}: {}\n", node.node, node.problem);
    }
    for node in &reply.nodes {
        for service in node.services.iter().filter(|service| !service.ok) {
            text += &format!("{}: {} has failed: {}\n", node.node, service.name, service.detail);
        }
    }
    text
}

fn row(node: &NodeServices, service: &Service) -> Vec<String> {
    let state = match (service.ok, service.critical) {
        (true, _) => "ok",
        (false, true) => "FAILED",
        (false, false) => "failed, not critical",
    };
    let last = if service.last_error.is_empty() { "-" } else { &service.last_error };
    vec![
        node.node.clone(),
        service.name.clone(),
        state.to_owned(),
        length(Duration::from_millis(service.for_ms)),
        service.restarts.to_string(),
        last.to_owned(),
    ]
}

/// Duration in its two largest units.
fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_listed_below_the_table() {
        let service = |name: &str, ok, critical, detail: &str| Service {
            name: name.to_owned(),
            ok,
            critical,
            detail: detail.to_owned(),
            last_error: detail.to_owned(),
            for_ms: 3_700_000,
            ..Service::default()
        };
        let services = vec![service("calls", true, true, ""), service("cpu", false, false, "no pause")];
        let nodes = vec![
            NodeServices { node: "a".to_owned(), services, problem: String::new() },
            NodeServices { node: "b".to_owned(), services: vec![], problem: "it does not answer".to_owned() },
        ];
        let text = render(&ServiceListReply { nodes });
        for part in
            ["calls", "1 h 1 min", "failed, not critical", "a: cpu has failed: no pause", "b: it does not answer"]
        {
            assert!(text.contains(part), "no '{part}' in\n{text}");
        }
        assert_eq!(length(Duration::from_secs(200_000)), "2 d 7 h");
    }
}
