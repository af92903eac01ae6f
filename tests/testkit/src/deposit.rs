//! Leaving and hearing a message, as a person does.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use twinbox_clock::BootInstant;

use crate::{ByeResult, Call, Endpoint, Found, Invite, NetPlace, Refused, Speech, Transport, User, g711::Law};

/// A message that was left.
#[derive(Debug, Clone)]
pub struct Deposit {
    /// The speech.
    pub speech: Speech,
    /// Bytes of the speech spoken until the answer to BYE: the message is a piece of these.
    pub spoken: usize,
    /// Bytes spoken when BYE was sent: the message reaches to there.
    pub said: usize,
    /// The answer to the BYE: `200` is the acknowledgement (rule A1).
    pub bye: ByeResult,
    /// Time of that answer.
    pub at: BootInstant,
    /// INVITE → 200.
    pub answered_in: Duration,
}

impl Deposit {
    /// Whether the node took responsibility for the message.
    pub fn acknowledged(&self) -> bool {
        self.bye.status == 200
    }
}

/// Leaves a message like [`leave_message`], unless the node refuses the call: a node that just stood still refuses new
/// calls for a moment.
pub fn try_leave_message(
    phones: &NetPlace,
    node: SocketAddr,
    mailbox: &str,
    seconds: f64,
) -> Result<Deposit, Refused> {
    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    Call::place(phones, node, Transport::Udp, &invite).map(|call| speak_and_hang_up(call, &endpoint, seconds))
}

/// Leaves a message of about `seconds` over UDP with an early offer and hangs up.
pub fn leave_message(phones: &NetPlace, node: SocketAddr, mailbox: &str, seconds: f64) -> Deposit {
    leave_message_with(phones, node, Transport::Udp, seconds, |media| Invite::new(mailbox, "2001", media))
}

/// Leaves a message with the INVITE that `invite` makes for our media address.
pub fn leave_message_with(
    phones: &NetPlace,
    node: SocketAddr,
    transport: Transport,
    seconds: f64,
    invite: impl FnOnce(SocketAddr) -> Invite,
) -> Deposit {
    let endpoint = Endpoint::open(phones, Law::Mu);
    let call = Call::place(phones, node, transport, &invite(endpoint.address()));
    let call = call.unwrap_or_else(|r| panic!("{node} refused the call: {} after {:?}", r.status, r.after));
    speak_and_hang_up(call, &endpoint, seconds)
}

fn speak_and_hang_up(call: Call, endpoint: &Endpoint, seconds: f64) -> Deposit {
    let speech = begin_to_speak(endpoint, &call);
    endpoint.wait_spoken(seconds + BEEP);
    hang_up(call, endpoint, speech)
}

/// Maximum length of the beep, in seconds: speech during the beep is not recorded.
const BEEP: f64 = 1.0;

/// Skips the greeting with `#` and speaks from then on, through the beep: the recording is a piece of the speech.
pub fn begin_to_speak(endpoint: &Endpoint, call: &Call) -> Speech {
    endpoint.send_to(call.media);
    endpoint.wait_heard(Duration::from_secs(10));
    sleep(Duration::from_millis(200));
    endpoint.press("#");
    let speech = Speech::unique();
    endpoint.speak(speech);
    speech
}

/// Hangs up while still speaking.
pub fn hang_up(call: Call, endpoint: &Endpoint, speech: Speech) -> Deposit {
    let (answered_in, said) = (call.answered_in, endpoint.spoken());
    let bye = call.bye();
    Deposit { speech, spoken: endpoint.spoken(), said, bye, at: BootInstant::now(), answered_in }
}

/// Signs in by `*97` and plays new messages with the key `1` until a piece of at least `seconds` of each of `deposits`
/// was heard, in any order; returns the pieces in the order of `deposits`, `None` for those not heard.
pub fn listen(
    phones: &NetPlace,
    node: SocketAddr,
    user: User,
    deposits: &[Deposit],
    seconds: f64,
    limit: Duration,
) -> Vec<Option<Found>> {
    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new("*97", user.number, endpoint.address());
    let call = Call::place(phones, node, Transport::Udp, &invite);
    let call = call.unwrap_or_else(|r| panic!("{node} refused the call to *97: {}", r.status));
    endpoint.send_to(call.media);
    sign_in(&endpoint, user);
    let begun = BootInstant::now();
    let mut found = vec![None; deposits.len()];
    while begun.elapsed() < limit && found.contains(&None) {
        sleep(Duration::from_millis(300));
        let heard = endpoint.heard();
        let mut news = false;
        for (slot, deposit) in found.iter_mut().zip(deposits).filter(|(slot, _)| slot.is_none()) {
            let piece = deposit.speech.find_in(&heard, deposit.spoken).filter(|f| f.seconds() >= seconds);
            // Its end is known once other audio follows it.
            *slot = piece.filter(|f| f.at + f.length + 400 < heard.len());
            news |= slot.is_some();
        }
        if news && found.contains(&None) {
            // 6: the next message, in the key map `asterisk`.
            endpoint.press("6");
        }
    }
    call.bye();
    found
}

/// Types the PIN while prompts play and asks for the new messages.
pub fn sign_in(endpoint: &Endpoint, user: User) {
    endpoint.wait_heard(Duration::from_secs(10));
    sleep(Duration::from_millis(300));
    endpoint.press(&format!("{}#", user.pin));
    sleep(Duration::from_millis(500));
    endpoint.press("1");
}
