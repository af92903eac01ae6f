//! Order of a mailbox's devices by their fallbacks.

use std::collections::BTreeSet;

use crate::{Device, DeviceError, DeviceId};

/// Refuses a device whose fallbacks lead back to it. `devices` are those of its mailbox, with or without itself.
pub fn check_fallbacks(device: &Device, devices: &[Device]) -> Result<(), DeviceError> {
    let mut names = vec![device.name.as_str()];
    let mut next = device.fallback;
    while let Some(id) = next {
        if id == device.id {
            names.push(&device.name);
            return Err(DeviceError::FallbackCycle { names: names.join(" → ") });
        }
        // More names than devices: the others make a cycle, of which this device is no part.
        let Some(other) = named(id, devices).filter(|_| names.len() <= devices.len()) else { break };
        names.push(&other.name);
        next = other.fallback;
    }
    Ok(())
}

/// The devices that notify first. One that enabled devices name as their fallback follows them, if one of those notifies
/// first. Two nodes that do not see each other may write a cycle: then the device with the smallest id begins, on every
/// node.
pub fn notified_first(devices: &[Device]) -> Vec<&Device> {
    let next = |device: &Device| device.fallback.filter(|_| device.enabled);
    let fallbacks: BTreeSet<DeviceId> = devices.iter().filter_map(next).collect();
    let (mut first, mut in_cycles): (Vec<&Device>, Vec<&Device>) =
        devices.iter().partition(|device| !fallbacks.contains(&device.id));
    let mut reached = BTreeSet::new();
    let mut follow = |from: &Device| {
        let (mut device, is_new) = (Some(from), !reached.contains(&from.id));
        while let Some(at) = device.filter(|device| reached.insert(device.id)) {
            device = next(at).and_then(|id| named(id, devices));
        }
        is_new
    };
    first.iter().for_each(|device| {
        follow(device);
    });
    in_cycles.sort_by_key(|device| device.id);
    for device in in_cycles {
        if follow(device) {
            first.push(device);
        }
    }
    first
}

fn named(id: DeviceId, devices: &[Device]) -> Option<&Device> {
    devices.iter().find(|device| device.id == id)
}
