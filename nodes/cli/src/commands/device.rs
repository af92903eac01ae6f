//! `twinbox device …`.

use std::{path::Path, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_wire::delivery::{Device, DeviceListReply, DeviceListRequest, DeviceRequest, EffectRequest};

use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::{DeviceArg, DeviceCommand};

/// Poll interval while a test has no outcome.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: DeviceCommand) -> Result<(), CliError> {
    let mut node = client::delivery(socket).await?;
    let (reply, device, done) = match command {
        DeviceCommand::List { number } => {
            let devices = pages::all(async |after| {
                let number = number.clone().unwrap_or_default();
                node.device_list(DeviceListRequest { number, limit: pages::AS_FIT, after }).await
            });
            let devices = devices.await?;
            if json {
                return output::json(&DeviceListReply { devices, ..Default::default() });
            }
            println!("{}", table(devices));
            return Ok(());
        }
        DeviceCommand::Add { device, kind, settings } => {
            let request = DeviceRequest { kind, settings, ..request(&device) };
            (node.device_add(request).await?.into_inner(), device, "added to")
        }
        DeviceCommand::Set { device, settings } => {
            let request = DeviceRequest { settings, ..request(&device) };
            (node.device_set(request).await?.into_inner(), device, "changed in")
        }
        DeviceCommand::Remove(device) => {
            (node.device_remove(request(&device)).await?.into_inner(), device, "removed from")
        }
        DeviceCommand::Test { device, timeout } => return test(node, json, &device, timeout).await,
    };
    if json {
        return output::json(&reply);
    }
    let acknowledged = output::acknowledged(&reply.acknowledged);
    println!("device {} {done} mailbox {} ({acknowledged})", device.device, device.number);
    Ok(())
}

fn request(device: &DeviceArg) -> DeviceRequest {
    DeviceRequest { number: device.number.clone(), name: device.device.clone(), ..Default::default() }
}

/// Waits for the outcome of a test; reports failed attempts meanwhile.
async fn test(
    mut node: client::Delivery,
    json: bool,
    device: &DeviceArg,
    timeout: Duration,
) -> Result<(), CliError> {
    let id = node.device_test(request(device)).await?.into_inner().id;
    let (began, mut reported) = (BootInstant::now(), 0);
    let effect = loop {
        let effect = node.outbox_show(EffectRequest { id: id.clone() }).await?.into_inner();
        if effect.ended_ms > 0 || began.elapsed() > timeout {
            break effect;
        }
        if !json && effect.state == "failed" && effect.attempts > reported && !effect.under_way {
            reported = effect.attempts;
            eprintln!("attempt {reported} failed: {}", effect.reason);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    if json {
        output::json(&effect)?;
    }
    let name = &device.device;
    match effect.state.as_str() {
        "done" if json => Ok(()),
        "done" => {
            println!("test of device {name}: done: {}", effect.reason);
            Ok(())
        }
        "dead" => Err(CliError::Failed(format!("test of device {name}: given up: {}", effect.reason))),
        state => Err(CliError::Failed(format!(
            "test of device {name}: {state} after {} s; 'twinbox outbox show {id}' shows its outcome, 'twinbox duty list' \
             the node that attempts it",
            timeout.as_secs()
        ))),
    }
}

fn table(devices: Vec<Device>) -> String {
    let rows = devices.into_iter().map(|device| {
        let set = device.settings.iter().filter(|setting| !setting.is_default);
        let settings: Vec<_> = set.map(|setting| format!("{}={}", setting.word, setting.value)).collect();
        vec![device.number, device.name, device.kind, settings.join(" ")]
    });
    output::table(&["NUMBER", "DEVICE", "KIND", "SETTINGS"], rows)
}
