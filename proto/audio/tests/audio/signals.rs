//! Signals for G.726 and their form as files.

/// Signals of 14 bits by integer arithmetic, the same on every machine.
pub fn signals() -> Vec<(&'static str, Vec<i16>)> {
    let triangle = |period: i32, level: i32| {
        move |n: i32| {
            let phase = n % period * 4 * level / period;
            (if phase < 2 * level { phase - level } else { 3 * level - phase }) as i16
        }
    };
    let (low, high) = (triangle(23, 9_000), triangle(7, 4_000));
    let mut seed = 1_u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as u16 as i16
    };
    let signals: Vec<(&str, Vec<i16>)> = vec![
        ("silence", vec![0; 800]),
        ("tone", (0..4_000).map(triangle(20, 12_000)).collect()),
        ("two tones", (0..4_000).map(|n| low(n) + high(n)).collect()),
        ("tone that changes", (0..8_000).map(|n| if n / 800 % 2 == 0 { low(n) } else { high(n) }).collect()),
        ("quiet noise", (0..4_000).map(|_| noise() >> 7).collect()),
        ("bursts", (0..8_000).map(|n| if n / 400 % 3 == 0 { noise() >> 2 } else { noise() >> 9 }).collect()),
        ("loud noise", (0..4_000).map(|_| noise()).collect()),
        ("steps", (0..4_000).map(|n| if n / 100 % 2 == 0 { i16::MAX } else { i16::MIN }).collect()),
    ];
    // The codec sees 14 bits; implementations differ in the way to drop the others.
    let cut = |signal: Vec<i16>| signal.into_iter().map(|sample| sample & !3).collect();
    signals.into_iter().map(|(name, signal)| (name, cut(signal))).collect()
}

/// Samples as raw sound, 16 bits in little endian.
pub fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// Samples of raw sound.
pub fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect()
}
