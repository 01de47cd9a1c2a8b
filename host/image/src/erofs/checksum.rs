//! CRC-32C as EROFS uses it: Castagnoli polynomial, reflected, no final inversion.

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Continues `seed` over `bytes`. A few thousand bytes for each image: a table would not pay.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |value, &byte| {
        (0..8).fold(value ^ u32::from(byte), |value, _| {
            if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_answer() {
        assert_eq!(!super::crc32c(!0, b"123456789"), 0xE306_9283);
    }
}
