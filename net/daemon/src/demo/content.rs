//! What the demo's origin has: a page that teaches, images and the bytes of a large object, all made by code.

/// Length of the large object: 32 MiB.
pub(super) const VIDEO_LEN: u64 = 32 << 20;

/// Fills `out` with the large object's bytes from position `at` on. The same position always has the same byte.
pub(super) fn fill_video(at: u64, out: &mut [u8]) {
    for (position, byte) in (at..).zip(out) {
        let word = mix(position / 8);
        *byte = word.to_le_bytes()[(position % 8) as usize];
    }
}

/// Spreads a number over all bits, so that the object does not compress (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Draws an image; `None` if there is none of that name.
pub(super) fn image(name: &str) -> Option<String> {
    let shapes: String = match name {
        "wave" => (0..12)
            .map(|row| {
                let y = 30 + row * 14;
                format!(
                    "<path d='M0 {y} C 80 {} 160 {} 320 {y}' fill='none' stroke='hsl({},60%,50%)' stroke-width='6'/>",
                    y - 40,
                    y + 40,
                    190 + row * 6
                )
            })
            .collect(),
        "rings" => (1..10)
            .map(|ring| {
                format!(
                    "<circle cx='160' cy='100' r='{}' fill='none' stroke='hsl({},70%,55%)' stroke-width='4'/>",
                    ring * 10,
                    ring * 36
                )
            })
            .collect(),
        "grid" => (0..40)
            .map(|cell| {
                format!(
                    "<rect x='{}' y='{}' width='36' height='36' rx='6' fill='hsl({},55%,60%)'/>",
                    cell % 8 * 40 + 2,
                    cell / 8 * 40 + 2,
                    cell * 9
                )
            })
            .collect(),
        _ => return None,
    };
    Some(format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 320 200' width='320' height='200'>\
         <rect width='320' height='200' fill='#f4f6f8'/>{shapes}</svg>\n"
    ))
}

/// The page at `/`.
pub(super) const INDEX: &str = include_str!("index.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_the_video_is_the_same_bytes() {
        let mut whole = vec![0; 1000];
        fill_video(500, &mut whole);
        for start in [0, 1, 7, 8, 13, 999] {
            let mut piece = vec![0; 1000 - start];
            fill_video(500 + start as u64, &mut piece);
            assert_eq!(piece, whole[start..]);
        }
        assert!(whole.iter().any(|&byte| byte != whole[0]));
    }

    #[test]
    fn the_page_shows_every_image_and_each_is_drawn() {
        for name in ["wave", "rings", "grid"] {
            assert!(INDEX.contains(&format!("/images/{name}.svg")), "{name}");
            let svg = image(name).expect("it is drawn");
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        }
        assert_eq!(image("nothing"), None);
    }
}
