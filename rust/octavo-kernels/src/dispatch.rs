//! Which instruction set runs. Chosen once, when the kernels are made; tests force each one that the machine has.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use crate::sample::Scratch;
#[cfg(avx512)]
use crate::simd::amx::Amx;
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2::Avx2;
#[cfg(avx512)]
use crate::simd::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use crate::simd::neon::Neon;
use crate::simd::portable::Portable;
use crate::simd::{Kernel, Simd};
use crate::{KernelError, Pool};

/// An instruction set with kernels of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// `Avx512Bf16` and AMX for bfloat16 and int8: products of bfloat16 weights, and of quantised ones for 16 tokens or
    /// more, are made of its tiles.
    Amx,
    /// `Avx512` and AVX-512 BF16: products of bfloat16 weights round their input to bfloat16.
    Avx512Bf16,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// `Neon` and dot products of bytes.
    NeonDot,
    /// What every 64-bit ARM has.
    Neon,
    /// What the compiler makes of plain Rust for the target.
    Portable,
}

const ALL: [Isa; 7] = [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::NeonDot, Isa::Neon, Isa::Portable];

impl Isa {
    /// The instruction sets of this machine, best first; always ends with `Portable`.
    pub fn available() -> Vec<Isa> {
        ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    pub fn best() -> Isa {
        Isa::available()[0]
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(avx512)]
            Isa::Amx => Isa::Avx512Bf16.is_available() && Amx::is_available(),
            #[cfg(not(avx512))]
            Isa::Amx => false,
            Isa::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Isa::Avx512.is_available(),
            Isa::Avx512 => {
                cfg!(avx512)
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && Isa::Avx2.is_available()
            }
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            Isa::NeonDot | Isa::Neon => false,
            Isa::Portable => true,
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        match self {
            Isa::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            Isa::Neon | Isa::Portable => true,
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Isa::Portable
    }

    /// Products of bfloat16 weights round their input to bfloat16, as their instruction takes both so.
    pub fn rounds_bf16_input(self) -> bool {
        matches!(self, Isa::Amx | Isa::Avx512Bf16)
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512_bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::NeonDot => "neon_dot",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| KernelError::UnknownIsa(name.to_owned()))
    }
}

/// The kernels of one instruction set on one thread pool. `KvCache` holds the attention.
///
/// All floats are float32. Each row of a result depends on that row's input alone: neither the number of rows nor the
/// number of threads changes a bit of it. Methods check their slices' lengths once and may be called from any thread.
pub struct CpuKernels {
    pub(crate) pool: Pool,
    isa: Isa,
    /// One a thread.
    pub(crate) sample_scratch: Vec<Mutex<Scratch>>,
}

impl CpuKernels {
    /// Kernels for `isa`, or for the best instruction set of this machine. Errors: 0 threads, `MissingIsa`.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Self, KernelError> {
        if threads == 0 {
            return Err(KernelError::Config("threads must be at least 1".to_owned()));
        }
        let isa = isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(KernelError::MissingIsa(isa));
        }
        let sample_scratch = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Self { pool: Pool::new(threads), isa, sample_scratch })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs a kernel on the calling thread.
    #[inline]
    pub(crate) fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        match self.isa {
            #[cfg(avx512)]
            Isa::Amx => {
                // SAFETY: `new` saw that the machine has `self.isa`.
                unsafe { Avx512::assume_tiles() }.call(kernel)
            }
            #[cfg(avx512)]
            Isa::Avx512Bf16 => {
                // SAFETY: `new` saw that the machine has `self.isa`.
                unsafe { Avx512::assume_bf16() }.call(kernel)
            }
            #[cfg(avx512)]
            Isa::Avx512 => {
                // SAFETY: `new` saw that the machine has `self.isa`.
                unsafe { Avx512::assume() }.call(kernel)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: `new` saw that the machine has `self.isa`.
                unsafe { Avx2::assume() }.call(kernel)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => {
                // SAFETY: `new` saw that the machine has `self.isa`.
                unsafe { Neon::assume() }.call(kernel)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::new().call(kernel),
            _ => Portable.call(kernel),
        }
    }
}
