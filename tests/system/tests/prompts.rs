//! A professional set of prompts takes the place of the built-in ones.

use std::time::Duration;

use twinbox_phone::{CallOptions, Codec, Phone, PhoneConfig, Target, Transport};
use twinbox_rtp::wav::Wav;
use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Spec, need};

/// Asterisk's recorded voice is heard, bit for bit, where the built-in one would speak.
#[tokio::test]
async fn asterisks_prompts_replace_the_built_in_ones() {
    if !need::all(&[need::PROMPTS]) {
        return;
    }
    let spec = Spec { prompts: Some(need::PROMPTS_DIR.into()), ..Spec::default() };
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(&spec)).await.expect("a cluster");
    let file = std::fs::read(format!("{}/vm-intro.wav", need::PROMPTS_DIR)).expect("the prompt's file");
    let intro = Wav::read(&file).expect("a WAV file").to_g711(Codec::Pcmu);

    let phone = Phone::bind(PhoneConfig::new(cluster.phones().ip.into(), Transport::Udp)).await.expect("a phone");
    let options = CallOptions { codecs: vec![Codec::Pcmu], ..CallOptions::default() };
    let target = Target::user(Cluster::USERS[0].number, cluster.sip("a"));
    let call = phone.call(target, options).await.expect("an answer");
    let whole = &intro[..intro.len() / 160 * 160];
    assert!(
        call.wait_for_audio(whole, 0, Duration::from_secs(30)).await.is_some(),
        "the recorded voice was not heard"
    );
    call.bye().await.expect("the call ends");
}
