//! ITU-T G.726 at 32 kbit/s: 8,000 samples a second, 4 bits each. The content of VPIM's `audio/32KADPCM`.
//!
//! The codec transmits the difference between a sample and its prediction, quantized in steps that grow and shrink with
//! the signal. Encoder and decoder adapt from the transmitted codes alone, so both always have the same state: the
//! encoder contains the decoder. All arithmetic is that of section 4 of the Recommendation, bit by bit; the names in
//! capitals in the comments are its blocks.
//! Codes and samples equal those of libspandsp bit by bit. Those of ffmpeg are close, not equal, by one block: where MIX
//! (section 4.2.4) drops the lower bits of the slow scale factor, ffmpeg keeps them. With that other MIX, the tests find
//! ffmpeg's codes and samples bit by bit. In both, samples beyond 16 bits wrap; here they saturate.
//!
//! - **Samples** are linear, as in annex A: 16 bits here, of which the codec sees the upper 14. Samples of G.711 have no
//!   more than these. Another sample is rounded towards zero. Output beyond 14 bits saturates (LIMO). The "synchronous
//!   coding adjustment" of chains of codecs with G.711 between them belongs to the main body, not to annex A; it is left
//!   out.
//! - **Packing** (RFC 3802 section 4, RFC 3551 section 4.5.4): the earlier code is in the less significant half of the
//!   byte. The opposite order is called AAL2-G726-32.

/// Decision levels of the quantizer (QUAN): base-2 logarithms of the normalized difference in 1/128. The code's
/// magnitude is the number of levels at or below the value.
const DECISION_LEVELS: [i32; 7] = [-124, 80, 178, 246, 300, 349, 400];
/// Logarithm of the reconstructed difference by the code's magnitude (RECONST). The first stands for zero.
const RECONSTRUCTED: [i32; 8] = [-2_048, 4, 135, 213, 273, 323, 373, 425];
/// Change of the scale factor by the code's magnitude (FUNCTW), in 1/16.
const SCALE_STEPS: [i32; 8] = [-12, 18, 41, 64, 112, 198, 355, 1_122];
/// Weight of the code's magnitude in the averages that tell speech from stationary signals (FUNCTF).
const ACTIVITY: [i32; 8] = [0, 0, 0, 1, 1, 1, 3, 7];

/// Limits of the fast scale factor (LIMB), in 1/512.
const MIN_SCALE: i32 = 544;
const MAX_SCALE: i32 = 5_120;

/// Limit of the second pole coefficient (LIMC): 0.75 in 1/16384.
const MAX_A2: i32 = 12_288;
/// Sum of both pole coefficients at most (LIMD): 1 - 1/16 in 1/16384.
const MAX_A1_A2: i32 = 15_360;
/// Second pole coefficient of a narrow-band signal, such as a modem's tone (TONE): below -0.71875.
const TONE_A2: i32 = -11_776;

/// Encodes samples, two to a byte. An odd number is completed by a zero sample.
pub fn encode(samples: &[i16]) -> Vec<u8> {
    let mut state = State::new(mix);
    let mut code = |sample: Option<&i16>| state.encode(sample.copied().unwrap_or(0));
    samples.chunks(2).map(|pair| code(pair.first()) | (code(pair.get(1)) << 4)).collect()
}

/// Decodes bytes, each to two samples.
pub fn decode(data: &[u8]) -> Vec<i16> {
    let mut state = State::new(mix);
    data.iter().flat_map(|byte| [byte & 0x0f, byte >> 4]).map(|code| state.decode(code)).collect()
}

/// A number in the Recommendation's floating point: a sign, 4 bits of exponent, 6 of mantissa.
#[derive(Debug, Clone, Copy)]
struct Float {
    negative: bool,
    exponent: u32,
    mantissa: i32,
}

impl Float {
    const ZERO: Self = Self { negative: false, exponent: 0, mantissa: 32 };

    /// The number of this sign and magnitude, its lower bits cut (FLOATA, FLOATB). Zero has a sign too.
    fn new(negative: bool, magnitude: i32) -> Self {
        let exponent = 32 - magnitude.leading_zeros();
        let mantissa = if magnitude == 0 { 32 } else { (magnitude << 6) >> exponent };
        Self { negative, exponent, mantissa }
    }

    /// The product with a predictor coefficient in 1/16384 (FMULT).
    fn times(self, coefficient: i32) -> i32 {
        let coefficient = coefficient >> 2;
        let other = Self::new(coefficient < 0, coefficient.abs() & 0x1fff);
        let exponent = self.exponent + other.exponent;
        let mantissa = ((self.mantissa * other.mantissa + 48) >> 4) << 7;
        let magnitude =
            if exponent <= 26 { mantissa >> (26 - exponent) } else { (mantissa << (exponent - 26)) & 0x7fff };
        if self.negative == other.negative { magnitude } else { -magnitude }
    }
}

/// Scale factor of the quantizer, in 1/512, from the slow one in 1/32768, the fast one in 1/512 and the weight of the fast
/// one in 1/64.
type Mix = fn(slow_scale: i32, fast_scale: i32, weight: i32) -> i32;

/// MIX of the Recommendation: the slow scale factor is cut to 1/512 first, and the product towards zero.
fn mix(slow_scale: i32, fast_scale: i32, weight: i32) -> i32 {
    let slow = slow_scale >> 6;
    slow + (fast_scale - slow) * weight / 64
}

/// State that encoder and decoder share.
#[derive(Debug)]
struct State {
    /// The block that joins both scale factors.
    mix: Mix,
    /// Fast scale factor (YU), in 1/512 of a power of two.
    fast_scale: i32,
    /// Slow scale factor (YL), in 1/32768.
    slow_scale: i32,
    /// Short and long average of the codes' activity (DMS, DML).
    short_activity: i32,
    long_activity: i32,
    /// Speed of adaptation (AP): 0 for stationary signals, 256 and more for speech.
    speed: i32,
    /// The signal is narrow-band (TD).
    tone: bool,
    /// Pole coefficients (A1, A2), in 1/16384.
    poles: [i32; 2],
    /// Zero coefficients (B1 to B6), in 1/16384.
    zeros: [i32; 6],
    /// The last two reconstructed samples (SR1, SR2), latest first.
    samples: [Float; 2],
    /// The last six quantized differences (DQ1 to DQ6), latest first.
    differences: [Float; 6],
    /// The last two sums of difference and zero-based prediction were negative (PK1, PK2).
    negative_sums: [bool; 2],
}

/// Prediction and scale factor of one sample, from the state before it.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    /// The predicted sample (SE).
    signal: i32,
    /// The part of the six zeros in it (SEZ).
    by_zeros: i32,
    /// Scale factor of the quantizer (Y), in 1/512.
    scale: i32,
}

impl State {
    /// The state at the beginning of a transmission.
    fn new(mix: Mix) -> Self {
        Self {
            mix,
            fast_scale: MIN_SCALE,
            slow_scale: MIN_SCALE << 6,
            short_activity: 0,
            long_activity: 0,
            speed: 0,
            tone: false,
            poles: [0; 2],
            zeros: [0; 6],
            samples: [Float::ZERO; 2],
            differences: [Float::ZERO; 6],
            negative_sums: [false; 2],
        }
    }

    /// The code of the next sample.
    fn encode(&mut self, sample: i16) -> u8 {
        let estimate = self.estimate();
        let code = quantize(i32::from(sample) / 4 - estimate.signal, estimate.scale);
        self.advance(code, estimate);
        code
    }

    /// The sample of the next code.
    fn decode(&mut self, code: u8) -> i16 {
        let estimate = self.estimate();
        let reconstructed = self.advance(code, estimate);
        // At most 14 bits, hence 16 after the shift.
        (reconstructed.clamp(-8_192, 8_191) << 2) as i16
    }

    fn estimate(&self) -> Estimate {
        // ACCUM adds in 16 bits and drops the carry.
        let sum = |start: i16, values: &[Float], coefficients: &[i32]| {
            let products = values.iter().zip(coefficients).map(|(value, &c)| value.times(c) as i16);
            products.fold(start, i16::wrapping_add)
        };
        let by_zeros = sum(0, &self.differences, &self.zeros);
        let signal = sum(by_zeros, &self.samples, &self.poles);
        // LIMA: the faster the adaptation, the more the fast scale factor counts.
        let weight = (self.speed >> 2).min(64);
        let scale = (self.mix)(self.slow_scale, self.fast_scale, weight);
        Estimate { signal: i32::from(signal >> 1), by_zeros: i32::from(by_zeros >> 1), scale }
    }

    /// Adapts to a code and returns its reconstructed sample (SR), of 14 bits and some headroom.
    fn advance(&mut self, code: u8, estimate: Estimate) -> i32 {
        let negative = code & 8 != 0;
        // Negative codes are ones' complements.
        let magnitude = usize::from((if negative { !code } else { code }) & 7);
        let size = reconstruct(magnitude, estimate.scale);
        let difference = if negative { -size } else { size };
        let sample = estimate.signal + difference;

        let transition = self.is_transition(size);
        self.adapt_predictor(difference, estimate.by_zeros + difference, transition);
        self.differences.rotate_right(1);
        self.differences[0] = Float::new(negative, size);
        self.samples = [Float::new(sample < 0, sample.abs()), self.samples[0]];
        self.tone = self.poles[1] < TONE_A2;
        self.adapt_speed(magnitude, estimate.scale, transition);
        self.adapt_scale(magnitude, estimate.scale);
        sample
    }

    /// A tone has just given way to another one or to speech, so that the predictor is of no use (TRANS).
    fn is_transition(&self, size: i32) -> bool {
        let whole = self.slow_scale >> 15;
        let fraction = (self.slow_scale >> 10) & 31;
        let limit = if whole > 9 { 31 << 10 } else { (32 + fraction) << whole };
        self.tone && size > (limit + (limit >> 1)) >> 1
    }

    /// Moves each coefficient a step along its gradient, of which only the signs count (UPA1, UPA2, UPB), and clears
    /// them after a transition (TRIGB).
    fn adapt_predictor(&mut self, difference: i32, sum: i32, transition: bool) {
        let negative = sum < 0;
        let [before, before_that] = self.negative_sums;
        self.negative_sums = [negative, before];
        if transition {
            self.poles = [0; 2];
            self.zeros = [0; 6];
            return;
        }
        let [a1, a2] = self.poles;
        let (mut gain1, mut gain2) = (0, 0);
        if sum != 0 {
            gain1 = if negative == before { 192 } else { -192 };
            let feedback = a1.clamp(-8_191, 8_191) << 2;
            let feedback = if negative == before { -feedback } else { feedback };
            gain2 = ((if negative == before_that { 16_384 } else { -16_384 }) + feedback) >> 7;
        }
        let a2 = (a2 + gain2 - (a2 >> 7)).clamp(-MAX_A2, MAX_A2);
        let a1 = (a1 + gain1 - (a1 >> 8)).clamp(a2 - MAX_A1_A2, MAX_A1_A2 - a2);
        self.poles = [a1, a2];
        for (zero, past) in self.zeros.iter_mut().zip(&self.differences) {
            let gain = match difference {
                0 => 0,
                _ if (difference < 0) == past.negative => 128,
                _ => -128,
            };
            // In 16 bits: long runs of equal signs overflow.
            *zero = i32::from((*zero + gain - (*zero >> 8)) as i16);
        }
    }

    /// Adapts faster while the codes' average size changes, as it does in speech (FILTA, FILTB, SUBTC, FILTC, TRIGA).
    fn adapt_speed(&mut self, magnitude: usize, scale: i32, transition: bool) {
        let activity = ACTIVITY[magnitude];
        self.short_activity += ((activity << 9) - self.short_activity) >> 5;
        self.long_activity += ((activity << 11) - self.long_activity) >> 7;
        if transition {
            self.speed = 256;
            return;
        }
        let change = ((self.short_activity << 2) - self.long_activity).abs();
        let fast = scale < 1_536 || self.tone || change >= self.long_activity >> 3;
        let target = if fast { 512 } else { 0 };
        self.speed += (target - self.speed) >> 4;
    }

    /// Follows the size of the codes with both scale factors (FILTD, LIMB, FILTE).
    fn adapt_scale(&mut self, magnitude: usize, scale: i32) {
        let step = ((SCALE_STEPS[magnitude] << 5) - scale) >> 5;
        self.fast_scale = (scale + step).clamp(MIN_SCALE, MAX_SCALE);
        self.slow_scale += self.fast_scale + (-self.slow_scale >> 6);
    }
}

/// The code of a difference (LOG, SUBTB, QUAN). The code 0 is never sent: it would make runs of zero bits.
fn quantize(difference: i32, scale: i32) -> u8 {
    let size = difference.abs();
    let exponent = size.max(1).ilog2();
    let mantissa = ((size << 7) >> exponent) & 127;
    let normalized = ((exponent as i32) << 7) + mantissa - (scale >> 2);
    // Seven levels: the magnitude fits into three bits.
    let magnitude = DECISION_LEVELS.iter().filter(|&&level| level <= normalized).count() as u8;
    if difference < 0 || magnitude == 0 { !magnitude & 15 } else { magnitude }
}

/// The size of the difference that a code stands for (ADDA, ANTILOG).
fn reconstruct(magnitude: usize, scale: i32) -> i32 {
    let logarithm = RECONSTRUCTED[magnitude] + (scale >> 2);
    if logarithm < 0 {
        return 0;
    }
    // The largest logarithm is 425 + 1280, so the exponent is 13 at most.
    ((128 + (logarithm & 127)) << 7) >> (14 - (logarithm >> 7))
}

#[cfg(test)]
mod tests;
