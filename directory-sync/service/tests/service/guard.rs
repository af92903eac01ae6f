//! The checker of message sizes and structure.

use proptest::prelude::*;
use twinbox_directory_service::{FrameChecker, FrameError, FrameLimits};

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xffff => out.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => {
            out.push(0x84);
            out.extend((length as u32).to_be_bytes());
        }
    }
    out.extend(content);
    out
}

fn nested(levels: usize) -> Vec<u8> {
    (0..levels).fold(Vec::new(), |inner, _| element(0x30, &inner))
}

/// Feeds pieces, and returns all messages and the error that ended the stream.
fn feed<'a>(limits: FrameLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let (mut checker, mut messages) = (FrameChecker::new(limits), Vec::new());
    for piece in pieces {
        let mut input = piece;
        loop {
            match checker.read(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn whole(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    feed(FrameLimits::default(), [bytes])
}

#[test]
fn messages_within_the_limits_pass_unchanged() {
    let first = element(0x30, &[element(2, &[1]), element(0x64, &element(4, &[7; 300]))].concat());
    let second = element(0x30, &[]);
    let (messages, error) = whole(&[first.clone(), second.clone()].concat());
    assert_eq!((messages, error), (vec![first, second], None));
}

#[test]
fn twenty_thousand_nested_tags_are_refused() {
    let bytes = nested(20_000);
    assert!(bytes.len() > 60_000, "{} bytes", bytes.len());
    assert_eq!(whole(&bytes), (Vec::new(), Some(FrameError::TooDeep(32))));
    assert_eq!(whole(&nested(32)).0.len(), 1, "32 levels are allowed");
    assert_eq!(whole(&nested(33)).1, Some(FrameError::TooDeep(32)));
}

#[test]
fn a_message_that_does_not_end_is_never_returned() {
    let bytes = element(0x30, &element(4, &[1; 40]));
    for cut in 0..bytes.len() {
        assert_eq!(whole(&bytes[..cut]), (Vec::new(), None), "cut after {cut} bytes");
    }
}

#[test]
fn lengths_that_no_server_needs_are_refused_at_the_header() {
    let bound = FrameLimits::default().bytes;
    for (header, error) in [
        (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], FrameError::TooLarge { bytes: 0xffff_ffff + 6, bound }),
        (&[0x30, 0x88, 0, 0, 0, 1, 0, 0, 0, 0][..], FrameError::LongLength),
        (&[0x30, 0x80][..], FrameError::Indefinite),
        (&[0x30, 4, 0x24, 0x80, 0, 0][..], FrameError::Indefinite),
        (&[0x30, 3, 4, 0x84, 0xff, 0xff, 0xff, 0xff][..], FrameError::Overrun),
        (&[0x30, 3, 4, 2, 0, 0][..], FrameError::Overrun),
        (&[0x30, 2, 0, 0][..], FrameError::Tag),
        (&[0x30, 3, 0x3f, 0x81, 0][..], FrameError::Tag),
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], FrameError::NotMessage(b'H')),
    ] {
        assert_eq!(whole(header), (Vec::new(), Some(error)), "{header:02x?}");
    }
}

#[test]
fn a_message_of_too_many_elements_is_refused() {
    let limits = FrameLimits { elements: 10, ..FrameLimits::default() };
    let message = |count: usize| element(0x30, &element(5, &[]).repeat(count));
    assert_eq!(feed(limits, [&message(9)[..], &message(9)[..]]).0.len(), 2, "each message counts by itself");
    assert_eq!(feed(limits, [&message(10)[..]]).1, Some(FrameError::TooMany(10)));
}

/// Bytes that are often near to a message.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop::collection::vec(any::<u8>(), 0..40).prop_map(|content| element(4, &content));
    let tree = leaf.prop_recursive(6, 40, 5, |inner| {
        prop::collection::vec(inner, 0..5).prop_map(|parts| element(0x30, &parts.concat()))
    });
    let damage = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(tree, 0..4), damage).prop_map(|(trees, damage)| {
        let mut bytes: Vec<u8> = trees.iter().flat_map(|tree| element(0x30, tree)).collect();
        if let Some((at, byte)) = damage
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn feeding_byte_by_byte_equals_feeding_at_once(bytes in bytes()) {
        let limits = FrameLimits { bytes: 400, depth: 5, elements: 30 };
        prop_assert_eq!(feed(limits, [&bytes[..]]), feed(limits, bytes.chunks(1)));
    }

    #[test]
    fn messages_are_the_bytes_that_came(bytes in bytes()) {
        let (messages, error) = whole(&bytes);
        let joined = messages.concat();
        prop_assert!(bytes.starts_with(&joined));
        prop_assert!(error.is_some() || joined.len() <= bytes.len());
    }
}
