"""Every field of a configuration, once, with its meaning and unit; the other files only override."""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  """The fields and their defaults."""
  config = ConfigDict()
  config.preset = ""  # which preset of its file this is; names the run's folder

  config.data = ConfigDict()
  config.data.name = "lgg"  # lgg: the published slices; phantom: synthetic ones, written on the spot
  config.data.root = config_dict.placeholder(str)  # folder that holds kaggle_3m/; not needed once the data set is built
  config.data.dir = config_dict.placeholder(str)  # where the built data set lives; None: TFDS's own folder
  config.data.expect_full = True  # insist on all 110 patients and 3,929 slices
  config.data.size = 256  # pixels; the network sees slices of size x size, scores are on the data's own grid
  config.data.normalize = "volume"  # volume: z-score by the slice's own volume; unit: divide by 255

  config.split = ConfigDict()
  config.split.kind = "fold"  # fold: by patient; random: by slice, which leaks
  config.split.fold = 0  # 0..21: the test fold; the next one validates
  config.split.seed = 0  # of the random split

  config.model = ConfigDict()
  config.model.name = "unet"
  config.model.width = 32  # channels of the first level
  config.model.depth = 4  # how often the picture is halved
  config.model.dtype = "float32"  # of the computation; parameters and statistics are always float32

  config.augment = ConfigDict()
  config.augment.flip = True  # left and right
  config.augment.rotation_degrees = 15.0  # at most, either way
  config.augment.scale = 0.1  # at most, as a share, up and down
  config.augment.shift = 0.05  # at most, as a share of the width
  config.augment.gamma = 0.2  # exponent between 1 / (1 + gamma) and 1 + gamma
  config.augment.noise = 0.02  # largest deviation, of intensities in 0..1

  config.loss = ConfigDict()
  config.loss.name = "bce_dice"  # bce, dice, bce_dice, focal_tversky
  config.loss.smooth = 1.0  # pixels added to both sides of the fraction, in all but bce
  config.loss.pooled = True  # one fraction for the batch rather than one for each slice, in all but bce
  config.loss.fp_weight = 0.3  # focal_tversky: weight of false positives
  config.loss.fn_weight = 0.7  # focal_tversky: weight of false negatives
  config.loss.exponent = 0.75  # focal_tversky: power of 1 - Tversky index

  config.train = ConfigDict()
  config.train.seed = 0  # of initial parameters, order of slices, augmentation and dropout
  config.train.batch_size = 16  # slices, over all devices
  config.train.epochs = 60
  config.train.optimizer = "adamw"  # sgd, adam, adamw
  config.train.learning_rate = 1e-3  # at its highest
  config.train.warmup_epochs = 1.0  # linear rise; then a cosine down to 0
  config.train.momentum = 0.9  # sgd
  config.train.weight_decay = 1e-4  # adamw, on kernels
  config.train.ema_decay = 0.0  # of the moving average of the parameters that is evaluated; 0: none
  config.train.score = "pooled.dice"  # of the validation part: picks the best checkpoint
  config.train.patience = 0  # epochs without a better score until training stops; 0: never
  config.train.deterministic = True  # on GPUs: only kernels that give the same bits every time

  config.eval = ConfigDict()
  config.eval.batch_size = 32  # slices, over all devices
  config.eval.threshold = config_dict.placeholder(float)  # of probability; None: chosen on the validation part
  config.eval.largest_component = False  # keep only the largest 3-D component of each volume
  return config
