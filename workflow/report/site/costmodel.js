// FLOPs and KV memory of a Llama-shaped model, as swiftkv/costmodel counts them; a test holds the two equal.
// `shape` has the field names of a config.json; `cut` is num_key_value_layers, `group` is key_value_group_size.
const costmodel = (() => {
  const headDim = (shape) => shape.head_dim || Math.floor(shape.hidden_size / shape.num_attention_heads);

  // What is wrong with a workload, in words; an empty text if nothing is.
  function problem(shape, cut, group, inputLen, outputLen) {
    const late = shape.num_hidden_layers - cut;
    const numbers = [...Object.values(shape), cut, group, inputLen, outputLen];
    if (!numbers.every((value) => Number.isInteger(value) && value > 0)) return "every number must be whole and above 0";
    if (cut > shape.num_hidden_layers) return `at most ${shape.num_hidden_layers - 1} of ${shape.num_hidden_layers} layers can be skipped`;
    if (late % group) return `${group} does not divide the ${late} skipped layers`;
    return "";
  }

  const kvCaches = (shape, cut, group) => cut + (shape.num_hidden_layers - cut) / group;
  const kvBytesPerToken = (shape, cut, group, dtypeBytes = 2) =>
    kvCaches(shape, cut, group) * 2 * shape.num_key_value_heads * headDim(shape) * dtypeBytes;
  const kvCapacityRatio = (shape, cut, group) => shape.num_hidden_layers / kvCaches(shape, cut, group);
  const positions = (start, count) => count * start + (count * (count + 1)) / 2;

  // FLOPs of one request; outputLen = 1 is prefill alone.
  function workloadFlops(shape, cut, group, inputLen, outputLen) {
    const width = headDim(shape);
    const queries = shape.num_attention_heads * width;
    const late = shape.num_hidden_layers - cut;
    const tokens = inputLen + outputLen - 1;
    const ran = tokens * cut + outputLen * late;
    return (
      2 * shape.hidden_size * shape.vocab_size * outputLen +
      4 * shape.hidden_size * shape.num_key_value_heads * width * tokens * kvCaches(shape, cut, group) +
      4 * shape.hidden_size * queries * ran +
      6 * shape.hidden_size * shape.intermediate_size * ran +
      4 * queries * (positions(0, tokens) * cut + positions(inputLen - 1, outputLen) * late)
    );
  }

  const speedupLimit = (shape, cut, group, inputLen, outputLen) =>
    workloadFlops(shape, shape.num_hidden_layers, 1, inputLen, outputLen) /
    workloadFlops(shape, cut, group, inputLen, outputLen);

  return { problem, kvCaches, kvBytesPerToken, kvCapacityRatio, workloadFlops, speedupLimit };
})();
if (typeof module !== "undefined") module.exports = costmodel;
