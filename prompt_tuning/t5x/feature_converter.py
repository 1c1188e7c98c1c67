"""seqio's converter of an encoder-decoder, with soft tokens: T5X makes its batches with one."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from prompt_tuning.data.batches import soft_tokens


class SoftTokenConverter(seqio.EncDecFeatureConverter):
    """Puts soft tokens into each input; seqio then pads or packs as it does any other tokens.

    TASK_FEATURE_LENGTHS count text: the encoder's row is longer by the soft tokens.
    """

    def __init__(self, soft: soft_tokens.SoftTokens, **settings):
        """`settings` are those of seqio, such as `pack`."""
        super().__init__(**settings)
        self._soft = soft

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        filled = ds.map(self._filled, num_parallel_calls=tf.data.AUTOTUNE)
        return super()._convert_features(filled, self._with_room(task_feature_lengths))

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Lengths of a batch's rows for those of a task's features."""
        return super().get_model_feature_lengths(self._with_room(task_feature_lengths))

    def _with_room(self, lengths: Mapping[str, int]) -> dict[str, int]:
        return {**lengths, "inputs": lengths["inputs"] + len(self._soft)}

    def _filled(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        def put(inputs):
            return self._soft.insert({"inputs": inputs})["inputs"]

        # Of no state, so that T5X can save where it is in the data.
        inputs = tf.numpy_function(put, [features["inputs"]], tf.int32, stateful=False)
        inputs.set_shape([None])
        return {**features, "inputs": inputs}
