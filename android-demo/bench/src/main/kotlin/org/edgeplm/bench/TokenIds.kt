package org.edgeplm.bench

/**
 * The fixed token ids of a measurement: numpy's `RandomState(20260).randint(0, vocab, count)`, number for number,
 * so that a phone does the same work as every other device.
 *
 * MT19937 (Matsumoto and Nishimura, ACM TOMACS 8(1), 1998), seeded with Knuth's generator; numpy masks each
 * 32-bit word and draws again while it is out of range.
 */
object TokenIds {
    const val SEED = 20260

    /** The first [count] ids below [vocabSize]. */
    fun of(vocabSize: Int, count: Int): IntArray {
        val largest = vocabSize - 1
        if (largest == 0) return IntArray(count)
        val mask = (Integer.highestOneBit(largest) shl 1) - 1
        val words = MersenneTwister(SEED)
        return IntArray(count) {
            var value: Int
            do value = words.next() and mask while (value > largest)
            value
        }
    }
}

/** Enough ids for a plan whose depths fit the context length. */
internal fun Plan.tokenIds(vocabSize: Int): IntArray =
    TokenIds.of(vocabSize, maxOf(promptTokens, depths.max() + decodeTokens + 1))

private class MersenneTwister(seed: Int) {
    private val state = IntArray(SIZE)
    private var position = SIZE

    init {
        state[0] = seed
        for (index in 1 until SIZE) {
            val before = state[index - 1]
            state[index] = 1812433253 * (before xor (before ushr 30)) + index
        }
    }

    fun next(): Int {
        if (position == SIZE) refill()
        var word = state[position++]
        word = word xor (word ushr 11)
        word = word xor ((word shl 7) and 0x9d2c5680.toInt())
        word = word xor ((word shl 15) and 0xefc60000.toInt())
        return word xor (word ushr 18)
    }

    private fun refill() {
        for (index in 0 until SIZE) {
            val mixed = (state[index] and Int.MIN_VALUE) or (state[(index + 1) % SIZE] and Int.MAX_VALUE)
            val twist = if (mixed and 1 == 0) 0 else 0x9908b0df.toInt()
            state[index] = state[(index + SHIFT) % SIZE] xor (mixed ushr 1) xor twist
        }
        position = 0
    }

    private companion object {
        const val SIZE = 624
        const val SHIFT = 397
    }
}
