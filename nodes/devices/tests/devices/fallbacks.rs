//! Order of devices by their fallbacks.

use proptest::prelude::*;
use twinbox_devices::{Device, DeviceError, DeviceId, check_fallbacks, notified_first};

use crate::common::mail;

/// Devices 0, 1, … whose fallbacks have these numbers; a disabled one has no `true`.
fn chain(fallbacks: &[(Option<u128>, bool)]) -> Vec<Device> {
    let device = |(at, (fallback, enabled)): (usize, &(Option<u128>, bool))| Device {
        id: DeviceId(at as u128),
        name: format!("d{at}"),
        fallback: fallback.map(DeviceId),
        enabled: *enabled,
        ..mail(&[])
    };
    fallbacks.iter().enumerate().map(device).collect()
}

fn first(devices: &[Device]) -> Vec<u128> {
    let mut first: Vec<u128> = notified_first(devices).iter().map(|device| device.id.0).collect();
    first.sort_unstable();
    first
}

#[test]
fn fallback_notifies_after_a_device_that_notifies_first_and_one_of_a_cycle_begins() {
    for (fallbacks, expected) in [
        (&[(Some(1), true), (None, true), (None, true)][..], &[0, 2][..]),
        (&[(Some(1), false), (None, true)], &[0, 1]),
        (&[(Some(9), true), (None, true)], &[0, 1]),
        // Cycles, as two administrators may write on the two sides of a split.
        (&[(Some(1), true), (Some(0), true)], &[0]),
        (&[(None, true), (Some(3), true), (Some(1), true), (Some(2), true)], &[0, 1]),
        (&[(Some(1), true), (Some(0), true), (Some(3), true), (Some(2), true)], &[0, 2]),
        // Another device leads into the cycle.
        (&[(Some(1), true), (Some(0), true), (Some(1), true)], &[2]),
        (&[(Some(1), true), (Some(0), false)], &[0]),
        (&[(Some(0), true)], &[0]),
    ] {
        assert_eq!(first(&chain(fallbacks)), expected, "{fallbacks:?}");
    }
}

#[test]
fn device_whose_fallbacks_lead_back_to_it_is_refused_with_their_names() {
    let devices = chain(&[(Some(1), true), (Some(2), true), (None, true)]);
    assert_eq!(check_fallbacks(&devices[0], &devices), Ok(()));
    let last = Device { fallback: Some(DeviceId(0)), ..devices[2].clone() };
    let refused = check_fallbacks(&last, &devices);
    let names = "d2 → d0 → d1 → d2".to_owned();
    assert_eq!(refused, Err(DeviceError::FallbackCycle { names: names.clone() }));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&names) && text.contains("fallback=-"), "{text}");
    // A cycle of others is not the fault of this device.
    let others = chain(&[(Some(1), true), (Some(2), true), (Some(1), true)]);
    assert_eq!(check_fallbacks(&others[0], &others), Ok(()));
}

proptest! {
    #[test]
    fn each_device_is_first_or_follows_one_that_is(
        fallbacks in prop::collection::vec((prop::option::of(0_u128..6), any::<bool>()), 0..6)
    ) {
        let devices = chain(&fallbacks);
        let first = first(&devices);
        let mut reached = first.clone();
        for at in &first {
            let mut next = *at;
            for _ in 0..devices.len() {
                let device = &devices[usize::try_from(next).unwrap()];
                match device.fallback.filter(|id| device.enabled && id.0 < devices.len() as u128) {
                    Some(id) => next = id.0,
                    None => break,
                }
                reached.push(next);
            }
        }
        for device in &devices {
            prop_assert!(reached.contains(&device.id.0), "{} is silent", device.name);
        }
    }
}
